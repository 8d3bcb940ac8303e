"""Writes a voice, a diffusion model or a speech encoder as ONNX, for onnxruntime and tools like MoeVoiceStudio.

A voice (the default). Reads checkpoints/NAME/model.pth and config.json (-n), or any G_STEP.pth (-m) and its config.
Writes checkpoints/NAME/NAME_SoVits.onnx and the descriptor checkpoints/NAME.json; with -m, MODEL.onnx and MODEL.json
beside the model, or what -o says. Inputs and outputs are so-vits-svc's: c, f0, mel2ph, uv, noise (times the noise
scale), sid (an id; weights of all speakers per frame where the config names several), vol where the voice takes
loudness -> audio. The pitch decoder is left out, the model card goes along. Breath noise and start phases are drawn in
the graph from a seed that counts from its opening; with --source_inputs they are two more inputs, and all runs agree.
Convert with it: python inference_main.py -m VOICE.onnx -c config.json -n song.wav

A diffusion model (--diffusion). Reads model_STEP.pt and config.yaml, writes NAME_{encoder,denoise,pred,after}.onnx.

A speech encoder (--encoder). Reads its pretrained file; writes audio (1, 1, T) at 16 kHz -> units (1, N, D), by default
under the name where the encoders vec768l12-onnx, vec256l9-onnx and hubertsoft-onnx look for it. Whisper takes up to one
window of audio (10 s; 30 s in whisper-ppg and whisper-ppg-large), since a graph cannot cut.

--check runs torch and onnxruntime on the same random input of several lengths; they may differ by 1e-4 of full scale
(of the largest value, where values are above 1). A graph that draws its own random numbers has no equal: a second,
temporary file that takes them as inputs is compared; the mel spectrum of the first must then be as near to torch's as
torch's own with other random numbers.

Example: python onnx_export.py -m logs/44k/G_8000.pth -o alto.onnx --check
"""

import argparse
import json
import logging
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.cli import configure_logging, make_parser, next_step, run
from modules.errors import ConfigError, UsageError
from modules.files import check_inputs, check_output, write_json

if TYPE_CHECKING:
    from modules.config.schema import Config
    from modules.contracts import Synthesizer
    from modules.inference.onnx_voice import OnnxVoice

logger = logging.getLogger(__name__)

FOLDER, DEFAULT_NAME = Path("checkpoints"), "TransformerFlow"
_CHECKED_LENGTHS = (40, 97, 333)  # frames


def main(argv: list[str] | None = None) -> int:
    """Writes the files; returns 0, or 1 where --check found a difference."""
    parser = make_parser(__file__, __doc__)
    add = parser.add_argument
    add("-n", "--model_name", metavar="NAME", help=f"a voice in checkpoints/NAME/ (default: {DEFAULT_NAME})")
    add("-m", "--model", type=Path, metavar="FILE", help="a voice by its path, in place of -n")
    add("-c", "--config", type=Path, metavar="FILE", help="its config (default: config.json beside the model)")
    add("-o", "--output", type=Path, metavar="FILE", help="file to write; of a diffusion model, NAME.onnx of its parts")
    add("--diffusion", type=Path, metavar="FILE", help="export a diffusion model, model_STEP.pt")
    add("--diffusion_config", type=Path, metavar="FILE", help="its config (default: config.yaml beside the model)")
    add("--encoder", metavar="NAME", help="export a speech encoder, such as vec768l12")
    add("--source_inputs", action="store_true", help="the random numbers of the harmonic source become inputs")
    add("--opset", type=int, default=17, metavar="N", help="version of the operations, 17 to 20")
    add("--check", action="store_true", help="compare with torch in onnxruntime")
    add("--overwrite", action="store_true", help="replace outputs where they exist; never an input")
    args = parser.parse_args(argv)
    kinds = ["-n/--model_name"] * bool(args.model_name) + ["-m/--model"] * bool(args.model)
    kinds += ["--diffusion"] * bool(args.diffusion) + ["--encoder"] * bool(args.encoder)
    if len(kinds) > 1:
        raise UsageError(f"{' and '.join(kinds)} are different things to export; give one of them")
    for flag, value, wanted in (
        ("--source_inputs", args.source_inputs, not (args.diffusion or args.encoder)),
        ("-c/--config", args.config, args.model),
        ("--diffusion_config", args.diffusion_config, args.diffusion),
    ):
        if value and not wanted:
            raise UsageError(f"{flag} does not belong to {kinds[0] if kinds else '-n/--model_name'}; leave it out")
    configure_logging()
    if not args.encoder:
        flags = ("--diffusion", "--diffusion_config") if args.diffusion else ("-m/--model", "-c/--config")
        check_inputs(*zip(flags, inputs_of(args)))

    # What follows imports torch; help and wrong flags should not wait for that.
    from modules.weights.onnx import INSTALL, check_can_export, is_installed

    check_can_export(args.opset)
    if args.check and not is_installed("onnxruntime"):
        raise UsageError(f"--check needs onnxruntime. {INSTALL}")
    if args.diffusion:
        return export_diffusion(args)
    return export_encoder(args) if args.encoder else export_voice(args)


def inputs_of(args: argparse.Namespace) -> tuple[Path, Path]:
    """The model and the config of a voice or a diffusion model."""
    if args.diffusion:
        return args.diffusion, args.diffusion_config or args.diffusion.with_name("config.yaml")
    model = args.model or FOLDER / (args.model_name or DEFAULT_NAME) / "model.pth"
    return model, args.config or model.with_name("config.json")


def export_voice(args: argparse.Namespace) -> int:
    """A voice and its descriptor."""
    name, (model, config_path) = args.model_name or DEFAULT_NAME, inputs_of(args)
    default = model.with_suffix(".onnx") if args.model else model.with_name(f"{name}_SoVits.onnx")
    output = args.output or default
    descriptor = output.with_suffix(".json") if args.model or args.output else FOLDER / f"{name}.json"
    check_output(output, [model, config_path], args.overwrite, (".onnx",))
    check_output(descriptor, [model, config_path], args.overwrite, (".json",))

    import torch

    from models import INFERENCE_SEED, load_synthesizer
    from modules.config.io import load_config
    from modules.inference.onnx_voice import VoiceGraph, describe_voice
    from modules.weights.card import CARD_KEY, read_card
    from modules.weights.onnx import export_graph
    from vdecoder.onnx import GraphDecoder

    config = load_config(config_path)
    if not config.spk:
        raise ConfigError(f"{config_path}: spk names no speaker. Use the config.json that was saved with the model.")
    voice = load_synthesizer(model, config, torch.device("cpu"))
    ids = list(config.spk.values())
    card = read_card(model)
    metadata = {} if card is None else {CARD_KEY: json.dumps(card, ensure_ascii=False)}

    def write(path: Path, seed: int | None) -> None:
        graph = VoiceGraph(voice.network, GraphDecoder(voice.network.dec, seed), ids)
        export_graph(describe_voice(graph, config.model.inter_channels, voice.hop_length), path, args.opset, metadata)

    write(output, None if args.source_inputs else INFERENCE_SEED)
    write_json(descriptor, describe(config, output.stem.removesuffix("_SoVits")))
    print(f"Voice: {output}\nDescriptor: {descriptor}")
    if args.check and not check_voice(voice, output, config, write):
        return 1
    files = "python inference_main.py -m", output.as_posix(), "-c", config_path.as_posix()
    print(next_step(*files, "-n", "SONG.wav", "-s", next(iter(config.spk))))
    return 0


def describe(config: "Config", name: str) -> dict[str, Any]:
    """What MoeVoiceStudio wants to know of a voice."""
    # `Hubert` and `HiddenSize` name the encoder's graph and the width of its units. so-vits-svc takes both from
    # `gin_channels`, which is the same for every voice that it can export.
    return {
        "Folder": name,
        "Name": name,
        "Type": "SoVits",
        "Rate": config.data.sampling_rate,
        "Hop": config.data.hop_length,
        "Hubert": encoder_file(config.model.speech_encoder).stem,
        "SoVits4": True,
        "SoVits3": False,
        "CharaMix": len(config.spk) > 1,
        "Volume": config.model.vol_embedding,
        "HiddenSize": config.model.ssl_dim,
        "Characters": list(config.spk),
        "Cluster": "",
    }


def encoder_file(name: str) -> Path:
    """Where the graph of an encoder belongs: where its `-onnx` twin looks for it, else pretrain/NAME.onnx."""
    from modules.encoders.base import ENCODERS

    twin = name if name.endswith("-onnx") else f"{name}-onnx"
    return Path(ENCODERS.get(twin).weights[0].path) if twin in ENCODERS else Path("pretrain") / f"{name}.onnx"


def check_voice(voice: "Synthesizer", path: Path, config: "Config", write: Callable[[Path, int | None], None]) -> bool:
    """Whether a file gives what the voice gives that it was made of; logs how far apart they are.

    `write` writes the graph to a path, with random numbers of the source from a seed, or as inputs for None.
    """
    import torch

    from models import INFERENCE_SEED
    from modules.inference.onnx_voice import OnnxVoice

    settings = config, torch.device("cpu"), INFERENCE_SEED
    graph = OnnxVoice(path, *settings)
    if graph.takes_random_numbers:
        return _is_exact(voice, graph, config, path.name)
    with tempfile.TemporaryDirectory() as folder:
        twin = Path(folder) / path.name
        write(twin, None)
        is_exact = _is_exact(voice, OnnxVoice(twin, *settings), config, f"{path.name} with given numbers")
    return is_exact and _is_near(voice, graph, config, path.name)


def _is_exact(voice: "Synthesizer", graph: "OnnxVoice", config: "Config", name: str) -> bool:
    from modules.weights.onnx import is_same

    good = True
    for n_frames in _CHECKED_LENGTHS:
        for is_mixed in (False, True) if len(config.spk) > 1 else (False,):
            given = example_chunk(config, n_frames, is_mixed)
            what = f"{name}, {n_frames} frames{', mixed speakers' if is_mixed else ''}"
            good &= is_same(what, graph.infer(**given).wav.numpy(), voice.infer(**given).wav)
    return good


def _is_near(voice: "Synthesizer", graph: "OnnxVoice", config: "Config", name: str) -> bool:
    """Whether the mel spectrum is as near to torch's as torch's own with other random numbers of the source."""
    from modules.audio.mel import mel_spectrogram

    # Without the prior's noise the source is all that the random numbers reach.
    given = {**example_chunk(config, _CHECKED_LENGTHS[-1]), "noise_scale": 0.0}
    wavs = voice.infer(**given).wav, voice.infer(**given, seed=1).wav, graph.infer(**given).wav
    mels = [mel_spectrogram(wav[None], config.audio) for wav in wavs]
    usual, found = ((mel - mels[0]).abs().mean().item() for mel in mels[1:])
    is_near = found <= 2 * usual + 0.05  # in natural log, since `usual` may be nearly 0; not so for a NaN
    text = "%s: its mel spectrum is %.3f from torch's; other random numbers in torch alone make %.3f%s"
    level, verdict = (logging.INFO, ", good") if is_near else (logging.ERROR, ": it is too far")
    logger.log(level, text, name, found, usual, verdict)
    return is_near


def example_chunk(config: "Config", n_frames: int, is_mixed: bool = False) -> dict[str, Any]:
    """Arguments of `Synthesizer.infer`, the same for every call."""
    import torch

    from modules.f0.convert import COARSE_STEPS, F0_MAX, F0_MIN

    generator = torch.Generator().manual_seed(n_frames)
    # The melody lies in the middle of the coarse pitch steps, since at their edges the last digit decides.
    steps = torch.randint(-3, 4, (n_frames,), generator=generator).cumsum(0).clamp(-60, 60) + 130
    low, high = (math.log1p(edge / 700) for edge in (F0_MIN, F0_MAX))
    f0 = 700 * torch.expm1(low + (steps - 1) * (high - low) / (COARSE_STEPS - 2))
    ids = list(config.spk.values())
    speaker: Any = ids[-1]
    if is_mixed:
        weights = torch.rand(len(ids), n_frames, generator=generator)
        speaker = torch.zeros(max(ids) + 1, n_frames)
        speaker[ids] = weights / weights.sum(dim=0)
    return {
        "units": torch.randn(config.model.ssl_dim, n_frames, generator=generator),
        "f0": f0,
        "uv": (torch.rand(n_frames, generator=generator) > 0.2).float(),
        "speaker": speaker,
        "volume": 0.2 * torch.rand(n_frames, generator=generator),
        "noise_scale": 0.4,
    }


def export_diffusion(args: argparse.Namespace) -> int:
    """The four parts of a diffusion model."""
    model, config_path = inputs_of(args)
    base = args.output or model.with_suffix(".onnx")
    check_output(base, [], True, (".onnx",))
    paths = {part: base.with_name(f"{base.stem}_{part}.onnx") for part in ("encoder", "denoise", "pred", "after")}
    for path in paths.values():
        check_output(path, [model, config_path], args.overwrite, (".onnx",))

    import torch

    from diffusion.onnx import check_parts, diffusion_graphs
    from diffusion.unit2mel import load_unit2mel, weights_of
    from modules.config.diffusion import load_diffusion_config
    from modules.weights.checkpoint import load_weights
    from modules.weights.onnx import export_graph

    config = load_diffusion_config(config_path)
    n_speakers = config.model.n_spk
    if config.spk and max(config.spk.values()) >= n_speakers > 1:
        raise ConfigError(f"{config_path}: spk has id {max(config.spk.values())}, but model.n_spk is {n_speakers}")
    n_mels = len(weights_of(load_weights(model), model)["decoder.denoise_fn.output_projection.weight"])
    network = load_unit2mel(model, config, n_mels, torch.device("cpu"), where=str(config_path))
    ids = list(config.spk.values()) or list(range(n_speakers))
    for part, graph in diffusion_graphs(network, ids, config.vocoder.type).items():
        export_graph(graph, paths[part], args.opset)
        print(f"{part.capitalize()}: {paths[part]}")
    return 0 if not args.check or check_parts(network, ids, config.vocoder.type, paths) else 1


def export_encoder(args: argparse.Namespace) -> int:
    """A speech encoder."""
    from modules.encoders._export import check_encoder, check_exportable, encoder_graph
    from modules.encoders.base import ENCODERS, build_encoder
    from modules.weights.onnx import export_graph

    kind = ENCODERS.get(args.encoder)
    check_exportable(kind)
    output = args.output or encoder_file(args.encoder)
    check_output(output, [Path(weights.path) for weights in kind.weights], args.overwrite, (".onnx",))
    encoder = build_encoder(args.encoder, "cpu")
    export_graph(encoder_graph(encoder), output, args.opset)
    print(f"Encoder: {output}")
    return 0 if not args.check or check_encoder(encoder, output) else 1


if __name__ == "__main__":
    run(main)
