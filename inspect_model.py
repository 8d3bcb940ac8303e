"""Says what model files are: whose voice, which encoder, which options, what they need in pretrain/, and their hash.

Reads files of any kind that the toolkit uses (voices, discriminators, diffusion models, vocoders, cluster centres,
indexes, speech encoders, f0 networks) and, of folders, every such file in them; also the config beside each. Nothing in
a file is run: one that asks for more than tensors and settings is not read further, and what it asks for is listed.
Writes only its report, for people or, with --json, one JSON object a line. Exit code 1: damaged, or asks to run code.

Example: python inspect_model.py logs/44k/G_8000.pth pretrain
"""

import argparse
import contextlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from modules.cli import configure_logging, make_parser, run
from modules.errors import FAILURES, CheckpointError, ConfigError, UsageError, UserError, reason_of
from modules.files import is_zip, sha256_of
from modules.pretrained.catalogue import PACKAGES, Weights, package, package_with
from modules.pretrained.find import find

logger = logging.getLogger(__name__)

Report = dict[str, Any]  # plain values, the same for people and for JSON

_SUFFIXES = frozenset(".pth .pt .ckpt .safetensors .pkl .faiss .onnx".split())
_FEATURES = (".soft.pt", ".spec.pt")  # of clips; thousands lie in a data set
_SHOWN = 12  # speakers, in the report for people
_IN_THE_FILE = "in the file"
# What a voice can do that others cannot, and the tensor that shows it.
_OPTIONS = {
    "volume embedding": r"emb_vol\.",
    "automatic f0": r"f0_decoder\.cond\.",
    "transformer flow": r"flow\..*self_attn",
    "shared flow": r"flow\.wn\.",
    "depthwise convolutions": r".*depth_conv",
    "snake decoder": r"dec\..*(snake|activations)",
}


class AsksForCode(Exception):
    """A file's pickles name more than it may hold: those names."""


def main(argv: list[str] | None = None) -> int:
    """Prints a report on each file; returns the exit code."""
    arguments = make_arguments().parse_args(argv)
    configure_logging(level=logging.WARNING)
    failed = []
    for path in _files_of(arguments.paths):
        report = inspect(path)
        failed.append("error" in report)
        text = json.dumps(report, ensure_ascii=False, default=str) if arguments.json else "\n".join(_lines(report))
        print(text, flush=True)
    if not failed:
        raise UsageError(f"no model files in {', '.join(map(str, arguments.paths))}")
    return int(any(failed))


def make_arguments() -> argparse.ArgumentParser:
    """The flags, as --help and the web page show them."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="files and folders")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, for other programs")
    return parser


def inspect(path: Path) -> Report:
    """All that can be said of a file, as plain values; `error` where it is damaged or asks to run code."""
    report: Report = {"path": path.as_posix()}
    readers = {".onnx": _onnx, ".faiss": _index, ".json": _index, ".pkl": _index}
    try:
        if not path.is_file() and path.exists():
            raise CheckpointError(f"{path}: is no regular file")
        report |= {"size_bytes": path.stat().st_size, "sha256": sha256_of(path, show=True)}
        report |= readers.get(path.suffix.lower(), _weights)(path)
        report["is_published_file"] = _is_published(path, report["sha256"])
        report = {key: value for key, value in report.items() if value not in (None, [], {}, "")}
    except AsksForCode as error:
        names = error.args[0]
        text = f"asks for {', '.join(names[:8])}: reading it could run code, so it was not read"
        report |= {"error": f"{path}: {text}. Get the file from its original source.", "asks_for": names}
    except FAILURES as error:
        report["error"] = f"{path}: {reason_of(error, path)}"
    return report


def _files_of(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for file in sorted(path.rglob("*")):
            is_hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
            is_model = file.suffix.lower() in _SUFFIXES and not file.name.endswith(_FEATURES)
            is_vocoder = file.name == "model" and file.with_name("config.json").is_file()
            if (is_model or is_vocoder or file.name == "feature_and_index.json") and not is_hidden and file.is_file():
                yield file


def _encoders() -> dict[str, Any]:
    from modules.encoders.base import ENCODERS

    return {name: ENCODERS.get(name) for name in ENCODERS.names()}


def _is_published(path: Path, sha256: str) -> bool | None:
    """Whether a file is the one that was published under its name; None where nobody said which that is."""
    known = [weights for kind in _encoders().values() for weights in kind.weights if weights.sha256]
    return next((sha256.startswith(file.sha256) for file in known if Path(file.path).name == path.name), None)


def _weights(path: Path) -> Report:
    """A `.pth`, `.pt`, `.ckpt`, `.safetensors` or a file without ending."""
    from modules.f0.voice_range import ranges_on
    from modules.weights.card import card_of
    from modules.weights.checkpoint import check_whole, load_checkpoint, step_of
    from modules.weights.families import DIFFUSION, ENCODER, VOICE, encoder_depth, recognise
    from modules.weights.foreign import globals_of, is_settings_name, is_tensor_name, load_foreign

    is_pickle = path.suffix != ".safetensors"
    others = [name for name in (globals_of(path) if is_pickle else []) if not is_tensor_name(name)]
    if code := [name for name in others if not is_settings_name(name)]:
        raise AsksForCode(code)
    check_whole(path)
    content = load_foreign(path) if is_pickle else load_checkpoint(path)
    found = recognise(content)
    kind, weights = found.family.kind, found.weights
    report: Report = {"kind": kind, "family": found.package or found.family.name, "details": [*found.details]}
    settings = sorted({name.split(".")[0] for name in others if not name.startswith("builtins.")})
    report["carries"] = "tensors and plain values" + (f", inert settings of {', '.join(settings)}" if settings else "")
    if weights:
        dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in weights.values() if tensor.is_floating_point()}
        report |= {"tensors": len(weights), "parameters": sum(tensor.numel() for tensor in weights.values())}
        report |= {"numbers": ", ".join(sorted(dtypes)), "is_half": bool(dtypes) and dtypes <= {"float16", "bfloat16"}}
    if kind in (VOICE, DIFFUSION, "discriminator"):
        steps = [content[key] for key in ("step", "global_step") if isinstance(content.get(key), int)]
        report["step"] = [*steps, step_of(path)][0]
        report |= {"epoch": content.get("iteration"), "card": card_of(content, path)}
        if ranges := ranges_on(report["card"] or {}):
            report["range"] = {name: str(known) for name, known in ranges.items()}
    if kind == VOICE and found.family.is_ours:
        report |= _voice(path, content, weights)
    elif kind == DIFFUSION:
        report |= _diffusion(path, content, weights)
    elif kind == "cluster centres":
        report |= _centres(path, content)
    else:
        report |= {"layers": encoder_depth(weights)} if kind == ENCODER else {}
        report |= _vocoder(path) if kind == "mel vocoder" else {}
        report |= _place(path, found.package) if found.package else {}
    if is_pickle and not is_zip(path):
        report["layout"] = "torch before 1.6: holds no checksums"
    return report


def _voice(path: Path, content: Mapping[str, Any], weights: Mapping[str, Any]) -> Report:
    from models import build_synthesizer
    from modules.config.io import load_config, parse_config, read_json
    from modules.device import WithoutDrawing
    from modules.weights.families import fit_voice

    width = _size(weights, "pre.weight", 1)
    report: Report = {
        "n_speakers": _size(weights, "emb_g.weight", 0),
        "options": [name for name, pattern in _OPTIONS.items() if any(re.match(pattern, key) for key in weights)],
        "is_compressed": not any(name.startswith("enc_q.") for name in weights),
        "is_averaged": "trained_model" in content or "n_averaged" in content or None,
    }
    config, where = _find_config(path, content, ("config.json",), parse_config, load_config)
    if config is None:
        return report | {"config_problem": where} | _width(width)
    report["family"] = "this toolkit"
    if where != _IN_THE_FILE:
        is_newer = "speech_encoder" in read_json(Path(where)).get("model", {}) or config.model.ssl_dim != 256
        report["family"] = f"so-vits-svc {'4.1' if is_newer else '4.0'}"
    report |= {"config": where} | _of_encoder(config.model.speech_encoder, width)
    report |= {"sampling_rate": config.data.sampling_rate, "hop_length": config.data.hop_length, "speakers": config.spk}
    with WithoutDrawing():
        wanted = build_synthesizer(config).state_dict()
    needed = {name: tensor for name, tensor in wanted.items() if not name.startswith("enc_q.")}
    try:
        fit_voice(weights, needed, path, config.path or "the config in the file")
    except CheckpointError as error:
        report["problem"] = str(error).removeprefix(f"{path}: ")
    return report


def _diffusion(path: Path, content: Mapping[str, Any], weights: Mapping[str, Any]) -> Report:
    from modules.config.diffusion import load_diffusion_config, parse_diffusion_config

    width = _size(weights, "unit_embed.weight", 1)
    report: Report = {"mels": _size(weights, "decoder.denoise_fn.input_projection.weight", 1)}
    report["n_speakers"] = _size(weights, "spk_embed.weight", 0) or 1
    names = ("config.yaml", "diffusion.yaml")
    config, where = _find_config(path, content, names, parse_diffusion_config, load_diffusion_config)
    if config is None:
        return report | {"config_problem": where} | _width(width)
    model, data = config.model, config.data
    trained = model.k_step_max if model.k_step_max and model.k_step_max < model.timesteps else model.timesteps
    report |= {"config": where} | _of_encoder(data.encoder, width)
    report |= {"noise_levels": trained, "sampling_rate": data.sampling_rate, "hop_length": data.block_size}
    vocoder = Weights(config.vocoder.ckpt, "python pretrain/download.py nsf-hifigan")
    return report | {"speakers": config.spk, "needs": [*report["needs"], *_needs((vocoder,))]}


def _size(weights: Mapping[str, Any], name: str, axis: int) -> int | None:
    return weights[name].shape[axis] if name in weights and weights[name].dim() > axis else None


def _find_config(
    path: Path, content: Mapping[str, Any], names: tuple[str, ...], parse: Callable, load: Callable
) -> tuple[Any, str]:
    """The config in a model's file or beside it, and where it stands; without one, None and the reason."""
    try:
        if isinstance(content.get("config"), dict):
            return parse(content["config"]), _IN_THE_FILE
        for beside in map(path.with_name, names):
            if beside.is_file():
                return load(beside), beside.as_posix()
    except ConfigError as error:
        return None, str(error)
    return None, f"no config in the file and no {path.with_name(names[0])}"


def _vocoder(path: Path) -> Report:
    from modules.config.vocoder import load_vocoder_config, vocoder_config_path

    try:
        config = load_vocoder_config(vocoder_config_path(path))
    except ConfigError as error:
        return {"config_problem": str(error)}
    return {"sampling_rate": config.sampling_rate, "hop_length": config.hop_size, "mels": config.num_mels}


def _place(path: Path, name: str) -> Report:
    """Where a pretrained file is looked for and what uses it."""
    first, used_by = package(name).files[0], package(name).needed_by
    users = {name: kind.weights for name, kind in _encoders().items() if first in kind.weights}
    places = [weights.path for files in users.values() for weights in files] or [first.path]
    place = next((place for place in places if Path(place).name == path.name), places[0])
    return {"encoder": [*users], "used_by": used_by, "belongs_in": place, "is_in_place": find(place) is not None}


def _width(*widths: int | None) -> Report:
    """The width of units, where all say the same, and the speech encoders whose units are that wide."""
    width = widths[0] if len(set(widths)) == 1 else None
    return {"units_width": width, "encoder_may_be": [name for name, kind in _encoders().items() if kind.dim == width]}


def _of_encoder(name: str, width: int | None) -> Report:
    """The encoder that a config names, why its units are not what the weights want, and the file that it needs."""
    report, kind = {"encoder": name, "units_width": width}, _encoders().get(name)
    if kind is None:
        return report | {"encoder_problem": f"this version knows no speech encoder {name!r}", "needs": []}
    if width not in (None, kind.dim):
        report["encoder_problem"] = f"its units are {kind.dim} wide, this model takes {width}"
    return report | {"needs": _needs(kind.weights)}


def _needs(alternatives: tuple[Weights, ...]) -> list[Report]:
    """The first of some equally good files that is present, else the first of all with the way to get it."""
    here = [{"path": weights.path, "present": True} for weights in alternatives if find(weights.path) is not None]
    if here or not alternatives:
        return here[:1]
    wanted, known = alternatives[0], package_with(alternatives[0].path)
    get = f"python pretrain/download.py {known.name}" if known else wanted.url
    return [{"path": wanted.path, "present": False, "get": get}]


def _centres(path: Path, content: Mapping[str, Any]) -> Report:
    from modules.weights.foreign import array_of

    shapes = {}
    for name, entry in content.items():
        if not isinstance(entry, dict) or "cluster_centers_" not in entry:
            raise CheckpointError(f"{path}: holds no cluster centres for {str(name)[:40]!r}")
        if shape := array_of(entry["cluster_centers_"], path).shape:
            shapes[str(name)] = shape
    widths = [shape[-1] for shape in shapes.values()]
    return {"speakers": {name: f"{shape[0]} centres" for name, shape in shapes.items()}, **_width(*widths)}


def _onnx(path: Path) -> Report:
    """A graph is not run: its name says which published one it is, or the card in it whose voice."""
    from modules.weights.card import read_card

    with path.open("rb") as file:
        if file.read(1) != b"\x08":  # the version of the format comes first in every graph
            raise CheckpointError(f"{path}: damaged or not an ONNX graph. Download it again.")
    known = next((found for found in PACKAGES if path.name in [Path(file.path).name for file in found.files]), None)
    report = {"kind": "ONNX graph", "carries": "a graph with its weights; nothing of it was run"}
    if known is not None:
        family, place = f"{known.name}, by the file's name", known.files[0].path
        return report | {"family": family, "used_by": known.needed_by, "belongs_in": place}
    with contextlib.suppress(UserError):  # without onnxruntime, or no graph that it could open
        if card := read_card(path):
            report |= {"kind": "voice model as an ONNX graph", "family": "this toolkit", "card": card}
    return report


def _index(path: Path) -> Report:
    """A feature index, ours (.json) or so-vits-svc's (.pkl), or a part of ours (.faiss)."""
    from cluster.index_files import header_of, index_header, is_index_name, read_json_index, read_pickled_index
    from modules.weights.foreign import globals_of

    report = {"kind": "feature index", "family": "this toolkit", "carries": "numbers only"}
    if path.suffix.lower() == ".faiss":
        width, n_vectors = index_header(path)
        return report | {"kind": "part of a feature index", "family": ""} | _width(width) | {"vectors": n_vectors}
    if path.suffix.lower() == ".json":
        width, entries = read_json_index(path)
        for name, entry in entries.items():
            file = path.with_name(entry.file)
            if not file.is_file() or sha256_of(file) != entry.sha256:
                raise CheckpointError(f"{path}: {entry.file}, the part of {name}, is missing or was changed")
        report |= {"encoder": json.loads(path.read_text("utf-8")).get("encoder"), "units_width": width}
        speakers = {name: f"id {entry.id}, {entry.n_vectors} vectors" for name, entry in entries.items()}
        return report | {"speakers": speakers}
    if code := [name for name in globals_of(path) if not is_index_name(name)]:
        raise AsksForCode(code)
    headers = {number: header_of(data, path) for number, data in read_pickled_index(path).items()}
    report |= {"family": "so-vits-svc 4.1"} | _width(*[width for width, _ in headers.values()])
    return report | {"speakers": {f"id {number}": f"{n} vectors" for number, (_, n) in headers.items()}}


def _lines(report: Report) -> Iterator[str]:
    """The report for people: the file's name and what it is, then a line for each thing that is known of it."""
    if "error" in report:
        yield f"error: {report['error']}"
        return
    family = ", ".join([*([report["family"]] if "family" in report else []), *report.get("details", [])])
    yield f"{report['path']}: {report['kind']}" + (f" ({family})" if family else "")
    shown = {key: value for key, value in report.items() if key not in ("path", "kind", "family", "details", "card")}
    # Without the tables of numbers.
    tables = ("f0_histograms", "ranges")
    shown |= {f"card: {key}": value for key, value in report.get("card", {}).items() if key not in tables}
    for key, value in shown.items():
        label = "size" if key == "size_bytes" else key.replace("_", " ")
        for text in _texts(key, value):
            yield f"  {label:18} {text}"
    yield ""


def _texts(key: str, value: Any) -> list[str]:
    if key == "size_bytes":
        return [f"{value / 1e6:.1f} MB"]
    if key == "needs":
        ends = ["present" if need["present"] else f"missing; get it with: {need['get']}" for need in value]
        return [f"{need['path']}: {end}" for need, end in zip(value, ends)]
    if isinstance(value, (dict, list)):
        words = [f"{name}: {item}" for name, item in value.items()] if isinstance(value, dict) else map(str, value)
        words = [word if len(word) <= 200 else word[:197] + "..." for word in words]
        more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
        return [", ".join(words[:_SHOWN]) + more]
    return [("yes" if value else "no") if isinstance(value, bool) else str(value)]


if __name__ == "__main__":
    run(main)
