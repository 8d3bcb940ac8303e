"""Every pretrained file that the toolkit can use: the one table of names, addresses, licences and checksums."""

from dataclasses import dataclass

from modules.errors import UsageError
from modules.registry import unknown_name


@dataclass(frozen=True)
class Weights:
    """A pretrained file."""

    path: str  # where it lies in the workspace, with `/`; mostly starts with `pretrain/`
    url: str  # where it can be had
    sha256: str | None = None  # of the published file, or its first digits; None where nobody published one
    same_as: str | None = None  # of an earlier file with the same numbers, by which data sets go on knowing this one


@dataclass(frozen=True)
class Package:
    """Files that belong together and one place to get them."""

    name: str  # what a user types after `download.py`
    files: tuple[Weights, ...]  # what lies on the disk in the end
    size: int  # of the transfer, in MB, about
    licence: str  # of the weights, or what is known of it
    needed_by: str  # in words, for the table
    archive: str | None = None  # address of a zip that holds the files; None where each file has its own `url`
    members: tuple[str, ...] = ()  # path of each file in the zip, in the order of `files`


_HUB = "https://huggingface.co/"
_RELEASES = "https://github.com/{}/releases/"
_VEC = f"{_HUB}lj1995/VoiceConversionWebUI/resolve/main/hubert_base.pt"
_SOFT = _RELEASES.format("bshall/hubert") + "download/v0.1/hubert-soft-0d54a1f4.pt"
_CNHUBERT = f"{_HUB}TencentGameMate/chinese-hubert-large/resolve/main/chinese-hubert-large-fairseq-ckpt.pt"
_DPHUBERT = f"{_HUB}pyf98/DPHuBERT/resolve/main/DPHuBERT-sp0.75.pth"
_WAVLM = "https://valle.blob.core.windows.net/share/wavlm/WavLM-Base+.pt"
_GRAPHS = f"{_HUB}NaruseMioShirakana/MoeSS-SUBModel/resolve/main/"
_RMVPE = _RELEASES.format("yxlllc/RMVPE") + "download/230917/rmvpe.zip"
_FCPE = f"{_HUB}datasets/ylzz1997/rmvpe_pretrain_model/resolve/main/fcpe.pt"
_VOCODER = _RELEASES.format("openvpi/vocoders") + "download/nsf-hifigan-v1/nsf_hifigan_20221211.zip"
_VOCODER_PAGE = _RELEASES.format("openvpi/vocoders") + "tag/nsf-hifigan-v1"
_VOCODER_MEMBERS = ("nsf_hifigan/model", "nsf_hifigan/config.json")
_VOCODER_FILES = tuple(Weights(f"pretrain/{member}", _VOCODER_PAGE) for member in _VOCODER_MEMBERS)
_PC = "pc_nsf_hifigan_44.1k_hop512_128bin_2025.02"
_PC_VOCODER = _RELEASES.format("openvpi/vocoders") + f"download/pc-nsf-hifigan-44.1k-hop512-128bin-2025.02/{_PC}.zip"
_PC_FILES = tuple(Weights(f"pretrain/pc_nsf_hifigan/{name}", _PC_VOCODER) for name in ("model.ckpt", "config.json"))
_PC_MEMBERS = (f"{_PC}/model.ckpt", f"{_PC}/config.json")
_FASTER_WHISPER = f"{_HUB}Systran/faster-whisper-base/resolve/main/"
_FASTER_WHISPER_FILES = tuple(
    Weights(f"pretrain/faster-whisper/{name}", f"{_FASTER_WHISPER}{name}")
    for name in ("model.bin", "config.json", "tokenizer.json", "vocabulary.txt")
)
_SOVITS = f"{_HUB}datasets/ms903/sovits4.0-768vec-layer12/resolve/main/"
_BASE, _BASE_VOLUME = (
    tuple(Weights(f"{folder}/{half}_0.pth", f"{_SOVITS}{theirs}/clean_{half}_320000.pth") for half in "GD")
    for folder, theirs in (("logs/44k", "sovits_768l12_pre_large_320k"), ("pretrain/base-vec768l12-vol", "vol_emb"))
)
_DIFF_SVC = f"{_HUB}ms903/Diff-SVC-refactor-pre-trained-model/resolve/main/fix_pitch_add_vctk_600k/"
_BASE_DIFFUSION = (Weights("logs/44k/diffusion/model_0.pt", f"{_DIFF_SVC}model_0.pt"),)
_DEMUCS = "https://dl.fbaipublicfiles.com/demucs/hybrid_transformer/"
_KIM = f"{_HUB}KimberleyJSN/melbandroformer/resolve/main/MelBandRoformer.ckpt"
_KIM_YAML = "https://raw.githubusercontent.com/ZFTurbo/Music-Source-Separation-Training/main/configs/KimberleyJensen/"
_KIM_YAML += "config_vocals_mel_band_roformer_kj.yaml"
_KARAOKE = f"{_HUB}jarredou/aufr33-viperx-karaoke-melroformer-model/resolve/main/"
_DEREVERB = f"{_HUB}anvuew/dereverb_mel_band_roformer/resolve/main/"
_NC = "CC BY-NC-SA 4.0: not for commercial use"
_UNSTATED = "not stated; see its page"


def _one(name: str, file: str, url: str, size: int, licence: str, needed_by: str, sha256: str | None = None) -> Package:
    return Package(name, (Weights(f"pretrain/{file}", url, sha256),), size, licence, needed_by)


def _whisper(name: str, size: int, encoder: str, sha256: str) -> Package:
    url = f"https://openaipublic.azureedge.net/main/whisper/models/{sha256}/{name}.pt"
    return _one(f"whisper-{name}", f"{name}.pt", url, size, "MIT", f"--speech_encoder {encoder}", sha256)


def _demucs(name: str, file: str, signature: str, sha256: str) -> Package:
    url, needed_by = f"{_DEMUCS}{signature}-{sha256[:8]}.th", "separate.py: vocals out of music, quick"
    return _one(name, f"separation/{file}.th", url, 84, "MIT", needed_by, sha256)


def _roformer(name: str, file: str, url: str, yaml: str, licence: str, task: str) -> Package:
    files = (Weights(f"pretrain/separation/{file}.ckpt", url), Weights(f"pretrain/separation/{file}.yaml", yaml))
    return Package(name, files, 913, licence, f"separate.py: {task}")


def _onnx(name: str, file: str, size: int) -> Package:
    return _one(name, file, f"{_GRAPHS}{file}", size, _UNSTATED, f"--speech_encoder {name}")


PACKAGES: tuple[Package, ...] = (
    _one("contentvec", "checkpoint_best_legacy_500.pt", _VEC, 190, "MIT", "--speech_encoder vec768l12, vec256l9"),
    _one("hubertsoft", "hubert-soft-0d54a1f4.pt", _SOFT, 378, "MIT", "--speech_encoder hubertsoft", "0d54a1f4"),
    _whisper("tiny", 76, "whisper-ppg-tiny", "65147644a518d12f04e32d6f3b26facc3f8dd46e5390956a9424a650c0ce22b9"),
    _whisper("base", 145, "whisper-ppg-base", "ed3a0b6b1c0edf879ad9b11b1af5a0e6ab5db9205f891f668f8b0e6c6326e34e"),
    _whisper("small", 484, "whisper-ppg-small", "9ecf779972d90ba49c06d968637d720dd632c55bbf19d441fb42bf17a411e794"),
    _whisper("medium", 1528, "whisper-ppg", "345ae4da62f9b3d59415adc60127b97c714f32e89e936602e85993674d08dcb1"),
    _whisper("large-v2", 3087, "whisper-ppg-large", "81f7c96c852ee8fc832187b0132e569d6c3065a3252ed18e56effd0b6a73e524"),
    _one("cnhubert", "chinese-hubert-large-fairseq-ckpt.pt", _CNHUBERT, 3800, "MIT", "--speech_encoder cnhubertlarge"),
    _one("dphubert", "DPHuBERT-sp0.75.pth", _DPHUBERT, 95, _UNSTATED, "--speech_encoder dphubert"),
    _one("wavlm", "WavLM-Base+.pt", _WAVLM, 378, _UNSTATED, "--speech_encoder wavlmbase+"),
    _onnx("vec256l9-onnx", "vec-256-layer-9.onnx", 290),
    _onnx("vec256l12-onnx", "vec-256-layer-12.onnx", 360),
    _onnx("vec768l9-onnx", "vec-768-layer-9.onnx", 290),
    _onnx("vec768l12-onnx", "vec-768-layer-12.onnx", 360),
    _onnx("hubertsoft-onnx", "hubert-soft.onnx", 360),
    Package(
        "rmvpe", (Weights("pretrain/rmvpe.pt", _RMVPE),), 180, _UNSTATED, "--f0_predictor rmvpe", _RMVPE, ("model.pt",)
    ),
    _one("fcpe", "fcpe.pt", _FCPE, 70, _UNSTATED, "--f0_predictor fcpe, to extract exactly what so-vits-svc did"),
    Package("nsf-hifigan", _VOCODER_FILES, 53, _NC, "shallow diffusion and the enhancer", _VOCODER, _VOCODER_MEMBERS),
    Package("pc-nsf-hifigan", _PC_FILES, 53, _NC, "the same, with --formant_key", _PC_VOCODER, _PC_MEMBERS),
    Package("faster-whisper", _FASTER_WHISPER_FILES, 148, "MIT", "evaluate.py: word errors, with pip's faster-whisper"),
    _demucs("htdemucs", "htdemucs", "955717e8", "8726e21a993978c7ba086d3872e7608d7d5bfca646ca4aca459ffda844faa8b4"),
    _demucs(
        "htdemucs-ft",
        "htdemucs_ft_vocals",
        "04573f0d",
        "f3cf25b222c4eed7cd49dd8b2c9597d50c18bd154090f7b919cfa5f93cf22c49",
    ),
    _roformer("melband-roformer", "MelBandRoformer", _KIM, _KIM_YAML, _UNSTATED, "vocals out of music, the best"),
    _roformer(
        "melband-karaoke",
        "mel_band_roformer_karaoke_aufr33_viperx_sdr_10.1956",
        f"{_KARAOKE}mel_band_roformer_karaoke_aufr33_viperx_sdr_10.1956.ckpt",
        f"{_KARAOKE}config_mel_band_roformer_karaoke.yaml",
        _UNSTATED,
        "--lead_model",
    ),
    _roformer(
        "melband-dereverb",
        "dereverb_mel_band_roformer_anvuew_sdr_19.1729",
        f"{_DEREVERB}dereverb_mel_band_roformer_anvuew_sdr_19.1729.ckpt",
        f"{_DEREVERB}dereverb_mel_band_roformer_anvuew.yaml",
        "GPL 3.0",
        "--echo_model",
    ),
    Package("base-vec768l12", _BASE, 725, _UNSTATED, "train.py: a start for a voice with vec768l12 without loudness"),
    Package("base-vec768l12-vol", _BASE_VOLUME, 725, _UNSTATED, "train.py: the same for --vol_aug"),
    Package("base-diffusion-vec768l12", _BASE_DIFFUSION, 220, _UNSTATED, "train_diff.py: a start with vec768l12"),
)


def package(name: str) -> Package:
    """The package of that name, or a UsageError that lists those there are."""
    known = {candidate.name: candidate for candidate in PACKAGES}
    if name not in known:
        raise UsageError(unknown_name("download", name, list(known)))
    return known[name]


def weights_of(name: str) -> tuple[Weights, ...]:
    """The files of a package."""
    return package(name).files


def package_with(path: str) -> Package | None:
    """The package that brings a file, or None."""
    return next((found for found in PACKAGES if any(weights.path == path for weights in found.files)), None)
