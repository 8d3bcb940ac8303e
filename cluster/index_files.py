"""Feature indexes on disk: ours (JSON and one faiss file for each speaker) and so-vits-svc's pickle.

    feature_and_index.json                    encoder, width, and for each speaker its id, file, n_vectors, sha256
    feature_and_index_<id>_<sha256>.faiss     faiss's own format; 8 digits of its checksum are in the name

The pickle is read by an unpickler that can make nothing but inert `StandIn` objects and holds bytes only. Those bytes,
like ours, reach faiss only after `header_of` has checked every size in them.
"""

import hashlib
import json
import logging
import pickle
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster import INDEX_COMMAND, check_width
from modules.errors import FAILURES, CheckpointError, reason_of
from modules.files import atomic_path, set_aside, sha256_of, write_json
from modules.weights.checkpoint import first_line
from modules.weights.foreign import StandIn, array_of, bytes_of, stand_in
from modules.weights.upstream import dump_for_upstream

logger = logging.getLogger(__name__)

JSON_NAME, PICKLE_NAME = "feature_and_index.json", "feature_and_index.pkl"
_AGAIN = f"Make it again with: {INDEX_COMMAND}"
_OUR_FILE = re.compile(r"feature_and_index_\d+_[0-9a-f]{8}\.faiss")
_INDEX_CLASSES = ("IndexIVFFlat", "IndexFlat", "IndexFlatL2")
_PARTS = ("_codecs.encode", "builtins.bytes", "builtins.bytearray", "__builtin__.bytes", "__builtin__.bytearray")
_PARTS += ("numpy.ndarray", "numpy.dtype", "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_PARTS += ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")

_FLAT, _IVF = b"IxF2", b"IwFl"  # with squared L2
_HEADER = "<4siq16xBi"  # mark, width, vectors, unused, is trained, metric
_L2 = 1
_NUMBER, _ID = 4, 8  # bytes


@dataclass(frozen=True)
class IndexFile:
    """One speaker's line in the JSON."""

    id: int
    file: str  # name of the faiss file beside the JSON
    n_vectors: int
    sha256: str


def write_indexes(folder: Path, indexes: dict[str, tuple[int, Any]], encoder: str, width: int) -> Path:
    """Writes `indexes`, speaker -> id and faiss index, in the place of earlier ones; the path of their JSON. A file of
    that name that is no index is renamed to `NAME.bak-N`.

    It is written last: whenever this is interrupted, the JSON names whole files.
    """
    import faiss

    path, entries = folder / JSON_NAME, {}
    if path.exists() and not _is_index(path):
        logger.warning("%s holds something else: it is now %s", path, set_aside(path).name)
    try:
        for speaker, (number, index) in indexes.items():
            data = memoryview(faiss.serialize_index(index))
            digest = hashlib.sha256(data).hexdigest()
            name = f"feature_and_index_{number}_{digest[:8]}.faiss"
            with atomic_path(folder / name) as temporary:
                temporary.write_bytes(data)
            entries[speaker] = {"id": number, "file": name, "n_vectors": index.ntotal, "sha256": digest}
        write_json(folder / JSON_NAME, {"encoder": encoder, "width": width, "speakers": entries})
        named = {entry["file"] for entry in entries.values()}
        for part in folder.iterdir():
            if _OUR_FILE.fullmatch(part.name) and part.name not in named:
                part.unlink()
    except OSError as error:
        reason = reason_of(error, folder)
        raise CheckpointError(f"{folder}: the index could not be written ({reason}). Free some disk space.") from None
    return path


def write_pickled_index(folder: Path, indexes: dict[str, tuple[int, Any]]) -> Path:
    """Writes `indexes`, as `write_indexes` takes them, as so-vits-svc 4.1's pickle of speaker id -> faiss index."""
    path = folder / PICKLE_NAME
    if path.exists() and not _is_index(path):
        logger.warning("%s holds something else: it is now %s", path, set_aside(path).name)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        dump_for_upstream(dict(indexes.values()), file)
    return path


def _is_index(path: Path) -> bool:
    try:
        return bool(read_json_index(path) if path.name == JSON_NAME else read_pickled_index(path))
    except FAILURES:
        return False


def read_json_index(path: Path) -> tuple[int, dict[str, IndexFile]]:
    """The width and the speakers of an index of ours; the faiss files are not opened."""
    try:
        content = json.loads(path.read_text("utf-8"))
        if "model" in content and "speakers" not in content:
            raise CheckpointError(f"{path}: is a config, not a feature index. Name a {JSON_NAME} or a model file.")
        width = int(content["width"])
        speakers = {
            name: IndexFile(int(entry["id"]), str(entry["file"]), int(entry["n_vectors"]), str(entry["sha256"]))
            for name, entry in content["speakers"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"[:120]
        raise CheckpointError(f"{path}: not an index ({reason}). {_AGAIN}") from None
    for entry in speakers.values():
        if not re.fullmatch(r"\w[\w.-]*", entry.file):
            raise CheckpointError(f"{path}: names the file {entry.file[:80]!r}, expected one beside it. {_AGAIN}")
    return width, speakers


def encoder_of(path: Path) -> str:
    """The encoder whose units are in an index of ours, as `read_json_index` accepts it; "" where it does not say."""
    return str(json.loads(path.read_text("utf-8")).get("encoder") or "")


def read_faiss_file(path: Path, entry: IndexFile, width: int) -> Any:
    """The faiss index of one speaker of the JSON `path`."""
    file = path.with_name(entry.file)
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file, but {path} names it. {_AGAIN}")
    if sha256_of(file) != entry.sha256:
        remedy = f"copy both from one place, or make them again with: {INDEX_COMMAND}"
        raise CheckpointError(f"{file}: is not the file that {path.name} names (another SHA-256); {remedy}")
    return parse_index(np.memmap(file, np.uint8, mode="r"), width, file)


def read_pickled_index(path: Path) -> dict[int, bytes | bytearray]:
    """Speaker id -> serialized faiss index, from so-vits-svc's `feature_and_index.pkl`; nothing in it can run."""
    try:
        with path.open("rb") as file:
            content = _InertUnpickler(file).load()
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except Exception as error:  # damaged bytes raise a dozen kinds
        reason = f"({first_line(error)}). Make one with: {INDEX_COMMAND}"
        raise CheckpointError(f"{path}: damaged or not an index {reason}") from None
    wrong = f"{path}: is not a dictionary of speaker ids and faiss indexes. Make an index with: {INDEX_COMMAND}"
    if not isinstance(content, dict):
        raise CheckpointError(wrong)
    found = {}
    for number, value in content.items():
        if not (type(number) is int and isinstance(value, StandIn) and isinstance(value.state, dict)):
            raise CheckpointError(wrong)
        data = value.state.get("this")
        try:
            found[number] = bytes_of(data)
        except (TypeError, ValueError):
            found[number] = array_of(data, path, ("uint8",)).tobytes()
    return found


def is_index_name(name: str) -> bool:
    """Whether a dotted name is that of a flat faiss index, or of what its bytes may be wrapped in."""
    module, _, last = name.rpartition(".")
    return name in _PARTS or (module.split(".")[0] == "faiss" and last in _INDEX_CLASSES)


class _InertUnpickler(pickle._Unpickler):  # not the one in C: that makes a table as long as a number in the file says
    """Makes stand-ins of all that `is_index_name` knows."""

    def find_class(self, module: str, name: str) -> type[StandIn]:
        full = f"{module}.{name}"
        if not is_index_name(full):
            problem = f"refused, it holds more than flat faiss indexes ({full[:80]}) and reading it could run code"
            raise CheckpointError(f"{problem}. Make an index with: {INDEX_COMMAND}")
        return stand_in(full)


def parse_index(data: bytes | bytearray | np.ndarray, width: int, path: Path) -> Any:
    """A faiss index from its serialized form, once `header_of` has passed it."""
    import faiss

    data = np.frombuffer(data, np.uint8)
    found, _ = header_of(data, path)
    check_width(f"{path}: its vectors", found, width, INDEX_COMMAND)
    try:
        index = faiss.deserialize_index(data)
    except (RuntimeError, MemoryError, AssertionError) as error:
        reason = str(error).strip().splitlines()[-1][-120:] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: damaged ({reason}). {_AGAIN}") from None
    if index.d != width or index.metric_type != faiss.METRIC_L2 or index.ntotal == 0:
        raise CheckpointError(f"{path}: holds no vectors. {_AGAIN}")
    return index


def index_header(path: Path) -> tuple[int, int]:
    """`header_of` a faiss file."""
    if not path.stat().st_size:
        raise CheckpointError(f"{path}: is empty. {_AGAIN}")
    return header_of(np.memmap(path, np.uint8, mode="r"), path)


def header_of(data: bytes | bytearray | np.ndarray, path: Path) -> tuple[int, int]:
    """Width and number of vectors of a serialized index that faiss may be given.

    faiss's reader builds any of its many kinds, some of which open other files by name, and believes the sizes that it
    is told: a changed byte makes it ask for 3.4 GB. Here only these two pass, with every size checked:

        flat       header "IxF2" | count, vectors
        IVF-flat   header "IwFl" | lists, probes | header "IxF2" | count, centroids | direct map | "ilar", lists, code
                   size, "full" or "sprs", sizes of the lists | for each list: vectors, ids
    """
    parts = _Parts(np.frombuffer(data, np.uint8))
    try:
        mark, width, n_vectors, is_trained, metric = parts.take(_HEADER)
        known = mark in (_FLAT, _IVF) and metric == _L2
        _require(known, f"is neither a flat nor an IVF-flat index with L2 distances (it begins with {mark!r})")
        fits = width >= 1 and 0 <= n_vectors * width * _NUMBER <= len(data)
        _require(fits, f"damaged, {len(data)} bytes cannot hold {n_vectors} vectors of {width} numbers")
        _require(is_trained == 1, "damaged, it says that it was never trained")
        if mark == _FLAT:
            parts.skip_array(_NUMBER, n_vectors * width)
        else:
            _skip_lists(parts, width, n_vectors)
        _require(parts.position == len(data), f"damaged, {len(data)} bytes where {parts.position} are expected")
    except struct.error:
        raise CheckpointError(f"{path}: damaged, the index is cut short. {_AGAIN}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}. Make an index with: {INDEX_COMMAND}") from None
    return width, n_vectors


class _Parts:
    """Reads values and arrays from the front to the end; a struct.error where the bytes do not suffice."""

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.position = data, 0

    def take(self, layout: str) -> tuple:
        values = struct.unpack_from(layout, self.data, self.position)
        self.position += struct.calcsize(layout)
        return values

    def skip_array(self, item_size: int, expected: int | None = None) -> np.ndarray:
        """The bytes of the next array, which its length comes before."""
        (count,) = self.take("<Q")
        start, self.position = self.position, self.position + count * item_size
        if self.position > len(self.data):
            raise struct.error("cut short")
        _require(expected in (None, count), f"damaged, {count} numbers where {expected} are expected")
        return self.data[start : self.position]


def _skip_lists(parts: _Parts, width: int, n_vectors: int) -> None:
    """What follows the header of an IVF index."""
    n_lists, n_probes = parts.take("<QQ")
    inner, inner_width, n_centroids, _, metric = parts.take(_HEADER)
    is_flat = (inner, inner_width, n_centroids, metric) == (_FLAT, width, n_lists, _L2)
    _require(is_flat, f"is an IVF index over {inner!r}, not over flat centroids")
    _require(1 <= n_probes <= max(n_lists, 1) * 1024, f"damaged, it would search {n_probes} lists of {n_lists}")
    parts.skip_array(_NUMBER, n_lists * width)
    (map_kind,) = parts.take("<B")
    _require(map_kind <= 1, f"keeps an unknown map of its vectors ({map_kind})")
    parts.skip_array(_ID, n_vectors if map_kind else 0)
    mark, n_stored, code_size, form = parts.take("<4sQQ4s")
    known = mark == b"ilar" and form in (b"full", b"sprs")
    _require(known, f"keeps its lists in an unknown form ({mark!r} {form!r})")
    fits = (n_stored, code_size) == (n_lists, width * _NUMBER)
    _require(fits, f"damaged, {n_stored} lists of {code_size} bytes a vector, expected {n_lists} of {width * _NUMBER}")
    sizes = np.frombuffer(parts.skip_array(8).tobytes(), "<u8")
    if form == b"sprs":  # pairs of a list and its size
        fits = len(sizes) % 2 == 0 and (sizes[::2] < n_lists).all()
        _require(fits, "damaged, its lists have wrong numbers")
        sizes = sizes[1::2]
    else:
        _require(len(sizes) == n_lists, f"damaged, {len(sizes)} sizes for {n_lists} lists")
    fits = (sizes <= n_vectors).all() and int(sizes.sum()) == n_vectors
    _require(fits, f"damaged, its lists do not hold {n_vectors} vectors")
    parts.position += n_vectors * (code_size + _ID)


def _require(fits: bool, problem: str) -> None:
    if not fits:
        raise ValueError(problem)
