"""Every pretrained file that the toolkit can use: the one table of names, addresses, licences and checksums.

`pretrain/download.py` fetches from it, encoders and predictors take their files from it, and errors about a missing
file name the command that brings it.
"""

from dataclasses import dataclass

from modules.errors import UsageError
from modules.registry import unknown_name


@dataclass(frozen=True)
class Weights:
    """A pretrained file.

    Args:
        path: where it lies in the workspace, with `/`; mostly starts with `pretrain/`.
        url: where it can be had.
        sha256: of the published file, or its first digits, or None where nobody published one.
    """

    path: str
    url: str
    sha256: str | None = None


@dataclass(frozen=True)
class Package:
    """Files that belong together and one place to get them.

    Args:
        name: what a user types after `download.py`.
        files: what lies on the disk in the end.
        size: of the transfer, in MB, about.
        licence: of the weights, or what is known of it.
        needed_by: in words, for the table.
        archive: address of a zip that holds the files, or None where each file has its own `url`.
        members: path of each file in the zip, in the order of `files`.
    """

    name: str
    files: tuple[Weights, ...]
    size: int
    licence: str
    needed_by: str
    archive: str | None = None
    members: tuple[str, ...] = ()


_HUGGING_FACE = "https://huggingface.co/"
_WHISPER = "https://openaipublic.azureedge.net/main/whisper/models/"
_BASE_MODELS = f"{_HUGGING_FACE}datasets/ms903/sovits4.0-768vec-layer12/resolve/main/sovits_768l12_pre_large_320k/"
_UNSTATED = "not stated; see its page"


def _whisper(name: str, size: int, sha256: str, encoder: str) -> Package:
    weights = Weights(f"pretrain/{name}.pt", f"{_WHISPER}{sha256}/{name}.pt", sha256)
    return Package(f"whisper-{name}", (weights,), size, "MIT", f"--speech_encoder {encoder}")


def _onnx(name: str, file: str, size: int) -> Package:
    url = f"{_HUGGING_FACE}NaruseMioShirakana/MoeSS-SUBModel/resolve/main/{file}"
    return Package(name, (Weights(f"pretrain/{file}", url),), size, _UNSTATED, f"--speech_encoder {name}")


PACKAGES: tuple[Package, ...] = (
    Package(
        "contentvec",
        (
            Weights(
                "pretrain/checkpoint_best_legacy_500.pt",
                f"{_HUGGING_FACE}lj1995/VoiceConversionWebUI/resolve/main/hubert_base.pt",
            ),
        ),
        190,
        "MIT",
        "--speech_encoder vec768l12 and vec256l9",
    ),
    Package(
        "hubertsoft",
        (
            Weights(
                "pretrain/hubert-soft-0d54a1f4.pt",
                "https://github.com/bshall/hubert/releases/download/v0.1/hubert-soft-0d54a1f4.pt",
                "0d54a1f4",
            ),
        ),
        378,
        "MIT",
        "--speech_encoder hubertsoft",
    ),
    _whisper("tiny", 76, "65147644a518d12f04e32d6f3b26facc3f8dd46e5390956a9424a650c0ce22b9", "whisper-ppg-tiny"),
    _whisper("base", 145, "ed3a0b6b1c0edf879ad9b11b1af5a0e6ab5db9205f891f668f8b0e6c6326e34e", "whisper-ppg-base"),
    _whisper("small", 484, "9ecf779972d90ba49c06d968637d720dd632c55bbf19d441fb42bf17a411e794", "whisper-ppg-small"),
    _whisper("medium", 1528, "345ae4da62f9b3d59415adc60127b97c714f32e89e936602e85993674d08dcb1", "whisper-ppg"),
    _whisper("large-v2", 3087, "81f7c96c852ee8fc832187b0132e569d6c3065a3252ed18e56effd0b6a73e524", "whisper-ppg-large"),
    Package(
        "cnhubert",
        (
            Weights(
                "pretrain/chinese-hubert-large-fairseq-ckpt.pt",
                f"{_HUGGING_FACE}TencentGameMate/chinese-hubert-large/resolve/main/chinese-hubert-large-fairseq-ckpt.pt",
            ),
        ),
        3800,
        "MIT",
        "--speech_encoder cnhubertlarge",
    ),
    Package(
        "dphubert",
        (
            Weights(
                "pretrain/DPHuBERT-sp0.75.pth",
                f"{_HUGGING_FACE}pyf98/DPHuBERT/resolve/main/DPHuBERT-sp0.75.pth",
            ),
        ),
        95,
        _UNSTATED,
        "--speech_encoder dphubert",
    ),
    Package(
        "wavlm",
        (
            Weights(
                "pretrain/WavLM-Base+.pt",
                "https://valle.blob.core.windows.net/share/wavlm/WavLM-Base+.pt",
            ),
        ),
        378,
        _UNSTATED,
        "--speech_encoder wavlmbase+",
    ),
    _onnx("vec256l9-onnx", "vec-256-layer-9.onnx", 290),
    _onnx("vec256l12-onnx", "vec-256-layer-12.onnx", 360),
    _onnx("vec768l9-onnx", "vec-768-layer-9.onnx", 290),
    _onnx("vec768l12-onnx", "vec-768-layer-12.onnx", 360),
    _onnx("hubertsoft-onnx", "hubert-soft.onnx", 360),
    Package(
        "rmvpe",
        (Weights("pretrain/rmvpe.pt", "https://github.com/yxlllc/RMVPE/releases/download/230917/rmvpe.zip"),),
        180,
        _UNSTATED,
        "--f0_predictor rmvpe",
        archive="https://github.com/yxlllc/RMVPE/releases/download/230917/rmvpe.zip",
        members=("model.pt",),
    ),
    Package(
        "fcpe",
        (
            Weights(
                "pretrain/fcpe.pt",
                f"{_HUGGING_FACE}datasets/ylzz1997/rmvpe_pretrain_model/resolve/main/fcpe.pt",
            ),
        ),
        70,
        _UNSTATED,
        "--f0_predictor fcpe, to hear exactly what so-vits-svc's heard",
    ),
    Package(
        "nsf-hifigan",
        (
            Weights("pretrain/nsf_hifigan/model", "https://github.com/openvpi/vocoders/releases/tag/nsf-hifigan-v1"),
            Weights(
                "pretrain/nsf_hifigan/config.json", "https://github.com/openvpi/vocoders/releases/tag/nsf-hifigan-v1"
            ),
        ),
        53,
        "CC BY-NC-SA 4.0: not for commercial use",
        "shallow diffusion and the enhancer",
        archive="https://github.com/openvpi/vocoders/releases/download/nsf-hifigan-v1/nsf_hifigan_20221211.zip",
        members=("nsf_hifigan/model", "nsf_hifigan/config.json"),
    ),
    Package(
        "base-vec768l12",
        (
            Weights("logs/44k/G_0.pth", f"{_BASE_MODELS}clean_G_320000.pth"),
            Weights("logs/44k/D_0.pth", f"{_BASE_MODELS}clean_D_320000.pth"),
        ),
        725,
        _UNSTATED,
        "train.py: a start for a voice with vec768l12 without loudness",
    ),
    Package(
        "base-diffusion-vec768l12",
        (
            Weights(
                "logs/44k/diffusion/model_0.pt",
                f"{_HUGGING_FACE}ms903/Diff-SVC-refactor-pre-trained-model/resolve/main/fix_pitch_add_vctk_600k/model_0.pt",
            ),
        ),
        220,
        _UNSTATED,
        "train_diff.py: a start for a diffusion model with vec768l12",
    ),
)


def package(name: str) -> Package:
    """The package of that name.

    Raises:
        UsageError: unknown; the text lists those there are.
    """
    for candidate in PACKAGES:
        if candidate.name == name:
            return candidate
    raise UsageError(unknown_name("download", name, [candidate.name for candidate in PACKAGES]))


def weights_of(name: str) -> tuple[Weights, ...]:
    """The files of a package; arguments and errors as `package`."""
    return package(name).files


def package_with(path: str) -> Package | None:
    """The package that brings a file, or None."""
    return next((found for found in PACKAGES if any(weights.path == path for weights in found.files)), None)
