"""Says what model files are: whose voice, which encoder, which options, what they need in pretrain/, and their hash.

Reads files of any kind that the toolkit uses (voices, discriminators, diffusion models, vocoders, cluster centres,
indexes, speech encoders, f0 networks) and, of folders, every such file in them; also the config beside each. Nothing in
a file is run: one that asks for more than tensors and settings is not read further, and what it asks for is listed.
Writes nothing but its report, for people or, with --json, one JSON object a line. Exit code 1 where a file is damaged
or asks to run code.

Example: python inspect_model.py logs/44k/G_8000.pth pretrain
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modules.cli import configure_logging, make_parser, run
from modules.errors import CheckpointError, UsageError, UserError

logger = logging.getLogger(__name__)

_SUFFIXES = frozenset(".pth .pt .ckpt .safetensors .pkl .faiss .onnx".split())
_FEATURES = (".soft.pt", ".spec.pt")  # of clips; thousands lie in a data set
_BIG = 1 << 28  # bytes: above, hashing gets a progress bar
_PIECE = 1 << 22
_SHOWN = 12  # speakers, in the report for people


def main(argv: list[str] | None = None) -> int:
    """Prints a report on each file; returns the exit code."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="files and folders")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, for other programs")
    arguments = parser.parse_args(argv)
    configure_logging(level=logging.WARNING)
    n_failed = n_files = 0
    for path in _files_of(arguments.paths):
        n_files += 1
        report = inspect(path)
        n_failed += "error" in report
        if arguments.json:
            print(json.dumps(report, ensure_ascii=False, default=str))
            continue
        print("\n".join(_lines(report)), flush=True)
    if not n_files:
        raise UsageError(f"no model files in {', '.join(map(str, arguments.paths))}")
    return 1 if n_failed else 0


def inspect(path: Path) -> dict[str, Any]:
    """All that can be said of a file, as plain values; `error` where it is damaged or asks to run code."""
    from modules.model_report import AsksForCode

    report: dict[str, Any] = {"path": path.as_posix()}
    try:
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file")
        report |= {"size_bytes": path.stat().st_size, "sha256": _hash(path)}
        report |= _report_of(path)
        report["is_published_file"] = _is_published(path, report["sha256"])
        report = {key: value for key, value in report.items() if value not in (None, [], {}, "")}
    except AsksForCode as error:
        report |= {"error": str(error), "asks_for": error.names}
    except OSError as error:
        report["error"] = f"{path}: cannot be read ({error.strerror or error})"
    except UserError as error:
        report["error"] = str(error)
    return report


def _files_of(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for file in sorted(path.rglob("*")):
            hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
            if not hidden and file.is_file() and _is_model_name(file):
                yield file


def _is_model_name(path: Path) -> bool:
    if path.name.endswith(_FEATURES):
        return False
    is_vocoder = path.name == "model" and path.with_name("config.json").is_file()
    return path.suffix.lower() in _SUFFIXES or path.name == "feature_and_index.json" or is_vocoder


def _hash(path: Path) -> str:
    from tqdm import tqdm

    size, digest = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as file, tqdm(total=size, unit="B", unit_scale=True, leave=False, disable=size < _BIG) as bar:
        bar.set_description(path.name)
        while piece := file.read(_PIECE):
            digest.update(piece)
            bar.update(len(piece))
    return digest.hexdigest()


def _report_of(path: Path) -> dict[str, Any]:
    from modules.model_report import report_on_weights

    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return _onnx(path)
    if suffix in (".faiss", ".json"):
        return _index(path)
    if suffix == ".pkl":
        return _pickled_index(path)
    report, found = report_on_weights(path)
    if report["kind"] == "voice model" and "config" in report:
        report["problem"] = _misfit(path, found.weights)
    return report


def _is_published(path: Path, sha256: str) -> bool | None:
    """Whether a file is the one that was published under its name; None where nobody said which that is."""
    from modules.encoders.base import ENCODERS

    known = {weights for name in ENCODERS.names() for weights in ENCODERS.get(name).weights if weights.sha256}
    return next((sha256.startswith(file.sha256) for file in known if Path(file.path).name == path.name), None)


def _misfit(path: Path, weights: Any) -> str | None:
    """Why a voice does not fit the config in it or beside it, or None."""
    import torch

    from models import build_synthesizer
    from modules.config.fit import explain_mismatch
    from modules.model_report import read_voice_config
    from modules.weights.checkpoint import load_weights, safetensors_metadata

    is_bare = path.suffix == ".safetensors"
    config = read_voice_config(path, safetensors_metadata(path) if is_bare else load_weights(path))
    with torch.device("meta"):
        wanted = build_synthesizer(config).state_dict()
    needed = {name: tensor for name, tensor in wanted.items() if not name.startswith("enc_q.")}
    return explain_mismatch(weights, needed, str(config.path or "the config in the file"))


def _onnx(path: Path) -> dict[str, Any]:
    """A graph is not run: its name says which published one it is, or the card in it whose voice."""
    from modules.pretrained.catalogue import PACKAGES
    from modules.weights.card import read_card

    with path.open("rb") as file:
        if file.read(1) != b"\x08":  # the version of the format comes first in every graph
            raise CheckpointError(f"{path}: damaged or not an ONNX graph. Download it again.")
    known = next((found for found in PACKAGES if path.name in [Path(file.path).name for file in found.files]), None)
    report = {"kind": "ONNX graph", "carries": "a graph with its weights; nothing of it was run"}
    if known is not None:
        report |= {"family": f"{known.name}, by the file's name", "used_by": known.needed_by}
        report["belongs_in"] = known.files[0].path
        return report
    with contextlib.suppress(UserError):  # without onnxruntime, or no graph that it could open
        if card := read_card(path):
            report |= {"kind": "voice model as an ONNX graph", "family": "this toolkit", "card": card}
    return report


def _index(path: Path) -> dict[str, Any]:
    """An index of ours, or one of its parts."""
    from cluster.index_files import index_header, read_json_index
    from modules.files import sha256_of
    from modules.model_report import encoders_of_width

    if path.suffix.lower() == ".faiss":
        width, n_vectors = index_header(path)
        return {
            "kind": "part of a feature index",
            "carries": "numbers only",
            "units_width": width,
            "vectors": n_vectors,
            "encoder_may_be": encoders_of_width(width),
        }
    width, speakers = read_json_index(path)
    for name, entry in speakers.items():
        file = path.with_name(entry.file)
        if not file.is_file() or sha256_of(file) != entry.sha256:
            raise CheckpointError(f"{path}: {entry.file}, the part of {name}, is missing or was changed")
    encoder = json.loads(path.read_text("utf-8")).get("encoder")
    return {
        "kind": "feature index",
        "family": "this toolkit",
        "carries": "numbers only",
        "encoder": encoder,
        "units_width": width,
        "speakers": {name: f"id {entry.id}, {entry.n_vectors} vectors" for name, entry in speakers.items()},
    }


def _pickled_index(path: Path) -> dict[str, Any]:
    from cluster.index_files import header_of, is_index_name, read_pickled_index
    from modules.model_report import AsksForCode, encoders_of_width
    from modules.weights.pickle_names import asked_names

    code = [name for name in asked_names(path) if not is_index_name(name)]
    if code:
        raise AsksForCode(path, code)
    headers = {number: header_of(data, path) for number, data in read_pickled_index(path).items()}
    widths = {width for width, _ in headers.values()}
    width = next(iter(widths)) if len(widths) == 1 else None
    return {
        "kind": "feature index",
        "family": "so-vits-svc 4.1",
        "carries": "numbers only",
        "units_width": width,
        "encoder_may_be": encoders_of_width(width),
        "speakers": {f"id {number}": f"{n_vectors} vectors" for number, (_, n_vectors) in headers.items()},
    }


def _lines(report: dict[str, Any]) -> Iterator[str]:
    """The report for people: the file's name and what it is, then a line for each thing that is known of it."""
    if "error" in report:
        yield f"error: {report['error']}"
        return
    family = ", ".join([*([report["family"]] if "family" in report else []), *report.get("details", [])])
    yield f"{report['path']}: {report['kind']}" + (f" ({family})" if family else "")
    for key, value in report.items():
        if key not in ("path", "kind", "family", "details", "card"):
            yield from _line(key, value)
    for key, value in report.get("card", {}).items():
        if key != "f0_histograms":  # tables of numbers
            yield from _line(f"card: {key}", value)
    yield ""


def _line(key: str, value: Any) -> Iterator[str]:
    label = f"  {key.replace('_', ' '):18} "
    if key == "size_bytes":
        yield f"  {'size':18} {value / 1e6:.1f} MB"
    elif key == "needs":
        for need in value:
            yield label + need["path"] + (": there" if need["present"] else f": missing; get it with: {need['get']}")
    elif isinstance(value, dict):
        yield label + _shortened([f"{name}: {item}" for name, item in value.items()])
    elif isinstance(value, list):
        yield label + _shortened(list(map(str, value)))
    elif isinstance(value, bool):
        yield label + ("yes" if value else "no")
    else:
        yield label + str(value)


def _shortened(words: list[str]) -> str:
    """Words in one line; of many only the first are shown."""
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(word if len(word) <= 200 else word[:197] + "..." for word in words[:_SHOWN]) + more


if __name__ == "__main__":
    run(main)
