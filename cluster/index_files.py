"""Feature indexes on disk: ours (JSON and one faiss file for each speaker) and so-vits-svc's pickle.

    feature_and_index.json                    encoder, width, and for each speaker its id, file, n_vectors, sha256
    feature_and_index_<id>_<sha256>.faiss     faiss's own format; 8 digits of its checksum are in the name

The pickle is read by an unpickler that can make nothing but inert `StandIn` objects and holds bytes only. Those bytes,
like ours, reach faiss only after their header says that they are a plain index with everything inside.
"""

import hashlib
import json
import pickle
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster import INDEX_COMMAND
from cluster.faiss_format import read_sizes
from modules.errors import CheckpointError
from modules.files import atomic_path, sha256_of, write_json
from modules.weights.foreign import StandIn, array_of, bytes_of, stand_in

JSON_NAME = "feature_and_index.json"
_OUR_FILE = re.compile(r"feature_and_index_\d+_[0-9a-f]{8}\.faiss")
_INDEX_CLASSES = ("IndexIVFFlat", "IndexFlat", "IndexFlatL2")
_PARTS = ("_codecs.encode", "builtins.bytes", "builtins.bytearray", "__builtin__.bytes", "__builtin__.bytearray")
_PARTS += ("numpy.ndarray", "numpy.dtype", "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_PARTS += ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")


@dataclass(frozen=True)
class IndexFile:
    """One speaker's line in the JSON.

    Args:
        id: the speaker's.
        file: name of the faiss file beside the JSON.
        n_vectors: in the index.
        sha256: of the file.
    """

    id: int
    file: str
    n_vectors: int
    sha256: str


def write_indexes(folder: Path, indexes: dict[str, tuple[int, Any]], encoder: str, width: int) -> Path:
    """Writes indexes, the JSON last; whenever this is interrupted, the JSON on disk names whole files.

    Args:
        folder: where; files of an earlier index of ours are removed.
        indexes: speaker -> its id and its faiss index.
        encoder: the encoder's name.
        width: D.

    Returns:
        The JSON's path.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written.
    """
    import faiss

    entries = {}
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
        for path in folder.iterdir():
            if _OUR_FILE.fullmatch(path.name) and path.name not in named:
                path.unlink()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise CheckpointError(f"{folder}: the index could not be written ({reason}). Free some disk space.") from None
    return folder / JSON_NAME


def read_json_index(path: Path) -> tuple[int, dict[str, IndexFile]]:
    """The width and the speakers of an index of ours; the faiss files are not opened.

    Raises:
        CheckpointError: damaged, or it names a file outside its folder.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        width = int(content["width"])
        speakers = {
            name: IndexFile(int(entry["id"]), str(entry["file"]), int(entry["n_vectors"]), str(entry["sha256"]))
            for name, entry in content["speakers"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"[:120]
        raise CheckpointError(f"{path}: not an index ({reason}). Make it again with: {INDEX_COMMAND}") from None
    for entry in speakers.values():
        if not re.fullmatch(r"\w[\w.-]*", entry.file):
            raise CheckpointError(
                f"{path}: names the file {entry.file[:80]!r}, expected one beside it. "
                f"Make it again with: {INDEX_COMMAND}"
            )
    return width, speakers


def read_faiss_file(path: Path, entry: IndexFile, width: int) -> Any:
    """The faiss index of one speaker.

    Args:
        path: the JSON.
        entry: its line on the speaker.
        width: D.

    Raises:
        CheckpointError: the file is missing, has changed, or is no index that we make.
    """
    file = path.with_name(entry.file)
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file, but {path} names it. Make it again with: {INDEX_COMMAND}")
    if sha256_of(file) != entry.sha256:
        raise CheckpointError(
            f"{file}: is not the file that {path.name} names (another SHA-256); copy both from one place, or make them "
            f"again with: {INDEX_COMMAND}"
        )
    return parse_index(np.memmap(file, np.uint8, mode="r"), width, file)


def read_pickled_index(path: Path) -> dict[int, bytes | bytearray]:
    """Speaker id -> serialized faiss index, from so-vits-svc's `feature_and_index.pkl`; nothing in it can run.

    Raises:
        CheckpointError: damaged, it holds something else, or it asks to run code.
    """
    try:
        with path.open("rb") as file:
            content = _InertUnpickler(file).load()
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except Exception as error:  # damaged bytes raise a dozen kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise CheckpointError(f"{path}: damaged or not an index ({reason}). Make one with: {INDEX_COMMAND}") from None
    wrong = f"{path}: is not a dictionary of speaker ids and faiss indexes. Make an index with: {INDEX_COMMAND}"
    if not isinstance(content, dict):
        raise CheckpointError(wrong)
    found = {}
    for number, value in content.items():
        if not (type(number) is int and isinstance(value, StandIn) and isinstance(value.state, dict)):
            raise CheckpointError(wrong)
        held = value.state.get("this")
        try:
            found[number] = bytes_of(held)
        except (TypeError, ValueError):
            found[number] = array_of(held, path, ("uint8",)).tobytes()
    return found


def is_index_name(name: str) -> bool:
    """Whether a dotted name is that of a flat faiss index, or of what its bytes may be wrapped in."""
    module, _, last = name.rpartition(".")
    return name in _PARTS or (module.split(".")[0] == "faiss" and last in _INDEX_CLASSES)


class _InertUnpickler(pickle._Unpickler):
    """Makes stand-ins of all that `is_index_name` knows.

    Python's own unpickler, not the one in C: that one makes a table as long as a number in the file says.
    """

    def find_class(self, module: str, name: str) -> type[StandIn]:
        full = f"{module}.{name}"
        if not is_index_name(full):
            raise CheckpointError(
                f"refused, it holds more than flat faiss indexes ({full[:80]}) and reading it could run code. Make an "
                f"index with: {INDEX_COMMAND}"
            )
        return stand_in(full)


def index_header(path: Path) -> tuple[int, int]:
    """Width and number of vectors of a faiss file; errors as `header_of`."""
    if not path.stat().st_size:
        raise CheckpointError(f"{path}: is empty. Make it again with: {INDEX_COMMAND}")
    return header_of(np.memmap(path, np.uint8, mode="r"), path)


def header_of(data: bytes | bytearray | np.ndarray, path: Path) -> tuple[int, int]:
    """Width and number of vectors of a serialized index that faiss may be given.

    Raises:
        CheckpointError: another kind of index, or damaged.
    """
    try:
        return read_sizes(np.frombuffer(data, np.uint8))
    except struct.error:
        raise CheckpointError(f"{path}: damaged, the index is cut short. Make it again with: {INDEX_COMMAND}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}. Make an index with: {INDEX_COMMAND}") from None


def parse_index(data: bytes | bytearray | np.ndarray, width: int, path: Path) -> Any:
    """A faiss index from its serialized form, once its header says that it is flat or IVF-flat, with L2 distances.

    Args:
        data: the bytes.
        width: D that is expected.
        path: for the message.

    Raises:
        CheckpointError: another kind of index, another width, or damaged.
    """
    import faiss

    data = np.frombuffer(data, np.uint8)
    found, _ = header_of(data, path)
    if found != width:
        raise CheckpointError(
            f"{path}: its vectors are {found} wide, but this model's units are {width}: they come from another "
            f"encoder. Make it again with: {INDEX_COMMAND}"
        )
    try:
        index = faiss.deserialize_index(data)
    except (RuntimeError, MemoryError, AssertionError) as error:
        reason = str(error).strip().splitlines()[-1][-120:] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: damaged ({reason}). Make it again with: {INDEX_COMMAND}") from None
    if index.d != width or index.metric_type != faiss.METRIC_L2 or index.ntotal == 0:
        raise CheckpointError(f"{path}: holds no vectors. Make it again with: {INDEX_COMMAND}")
    return index
