"""Reading checkpoints that other tools wrote, without their packages and without running anything in them.

fairseq and others save their settings beside the tensors, as objects of their own classes; each becomes an inert
`StandIn`. Names from anywhere else are refused before torch's restricted unpickler, which knows no others, starts.
"""

import _compat_pickle
import math
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from modules.errors import CheckpointError
from modules.files import is_zip
from modules.weights.checkpoint import MOST_PICKLED, first_line, load_weights, require_readable

# Packages whose objects are settings and may be stood in for; a dot at the end means everything below.
_SETTINGS = ("fairseq.", "omegaconf.", "hydra.", "argparse.Namespace", "typing.", "collections.", "enum.", "numpy.")
_PLAIN_TYPES = (dict, list, tuple, set, frozenset, int, float, complex, bool, str, bytes, bytearray, slice, range)
_BUILTINS = {f"builtins.{kind.__name__}": kind for kind in _PLAIN_TYPES} | {"builtins.object": None}
# What torch and numpy pickle tensors, arrays, their types and dictionaries of them with.
_TENSORS = re.compile(
    r"torch\.(\w+\.)?(\w+Storage|\w*Tensor|[a-z]+\d\w*|bool|Size|device|per_\w+)|torch\.serialization\._get_layout"
    r"|torch\.(_utils|_tensor)\._rebuild_\w+|torch\.nn\.parameter\.Parameter|collections\.OrderedDict|_codecs\.encode"
    r"|numpy\.(ndarray|dtype|float\d+|int\d+)|numpy\.(_core|core)\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)"
)
_FLOATS = ("float16", "float32", "float64")
_LEGACY_PICKLES = 5  # torch before 1.6: magic number, protocol, machine, content, names of the storages
_LEGACY_MAGIC = bytes.fromhex("8a0a6cfc9c46f9206aa85019")


class StandIn:
    """What is left of an object of a foreign class: its name, what it was made from and its state."""

    class_name = ""
    args: tuple = ()  # what the constructor was called with; pickle can make an object without calling it
    state: Any = None

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state


def stand_in(name: str) -> type[StandIn]:
    """A class that stands in for the one of that dotted name."""
    return type(name.rsplit(".", 1)[-1], (StandIn,), {"class_name": name})


def load_foreign(path: Path | str, settings: tuple[str, ...] = ()) -> dict:
    """The content of a `.pt`, `.pth` or `.safetensors` file: tensors on the CPU, settings `StandIn` (see `plain`).

    `settings`: full names of further classes that may be stood in for.
    """
    if Path(path).suffix == ".safetensors":
        return load_weights(path)
    names = globals_of(path)
    stands_in = [name for name in names if is_settings_name(name) or name in settings]
    if refused := [name for name in names if name not in stands_in and not is_tensor_name(name)]:
        text = f"{path}: refused, it holds more than weights and settings ({', '.join(refused[:4])})"
        raise CheckpointError(f"{text} and reading it could run code. Get the file from its original source.")
    # torch prefers its own where it knows a name, such as collections.OrderedDict.
    known = [(_BUILTINS.get(name) or stand_in(name), name) for name in stands_in]
    with torch.serialization.safe_globals(known):
        return load_weights(path)


def is_settings_name(name: str) -> bool:
    """Whether a dotted name stands for settings, of which `load_foreign` makes inert stand-ins."""
    return name in _BUILTINS or (name.startswith(_SETTINGS) and name.isprintable())


def is_tensor_name(name: str) -> bool:
    """Whether a dotted name is one that tensors and arrays are pickled with."""
    return _TENSORS.fullmatch(name) is not None


def globals_of(path: Path | str) -> list[str]:
    """Dotted names of all classes and functions that the pickles in a file (torch's zip, a file of torch before 1.6, or
    one pickle) ask for, sorted; nothing is unpickled."""
    # torch's `get_unsafe_globals_in_checkpoint` reads neither files of torch before 1.6 nor pickle protocols above 2.
    path = Path(path)
    require_readable(path)
    try:
        return sorted({name for pickle in _pickles_of(path) for name in _names_in(pickle)})
    except Exception as error:  # damaged bytes raise a dozen kinds
        text = f"{path}: damaged or not a weights file ({first_line(error)})"
        raise CheckpointError(f"{text}. Restore it from a copy, or get it again.") from None


def _pickles_of(path: Path) -> Iterator[IO[bytes]]:
    if is_zip(path):
        with zipfile.ZipFile(path) as archive:
            for member in (member for member in archive.infolist() if member.filename.endswith(".pkl")):
                if member.file_size > MOST_PICKLED:
                    raise ValueError(f"{member.filename} is {member.file_size} bytes long")
                with archive.open(member) as file:
                    yield file
        return
    with path.open("rb") as file:
        start = file.read(32)
        if start.startswith(b"PK"):
            raise ValueError("a zip without its end: it was cut short")
        file.seek(0)
        for _ in range(_LEGACY_PICKLES if _LEGACY_MAGIC in start else 1):
            yield file


def _names_in(pickle: IO[bytes]) -> set[str]:
    """Names in one pickle, whose instructions are listed only; texts that it remembers and takes up are followed."""
    found: set[str] = set()
    memo: dict[int, str | None] = {}
    recent: list[str | None] = [None, None]  # the last values put on the stack; None for what is no text
    for opcode, argument, _ in pickletools.genops(pickle):
        name = opcode.name
        if name in ("GLOBAL", "INST"):
            # `__builtin__.long` is what Python 2, and protocols of its time, call `builtins.int`.
            module, _, attribute = argument.partition(" ")
            module, attribute = _compat_pickle.NAME_MAPPING.get((module, attribute), (module, attribute))
            found.add(f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{attribute}")
            recent.append(None)
        elif name == "STACK_GLOBAL":
            found.add(".".join("?" if text is None else text for text in recent[-2:]))
            recent.append(None)
        elif name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if argument is None else argument] = recent[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            recent.append(memo.get(argument))
        elif name not in ("FRAME", "PROTO", "STOP"):
            recent.append(argument if isinstance(argument, str) else None)
        del recent[:-2]
    return found


def plain(value: Any) -> Any:
    """Settings as plain dictionaries, lists and values: an omegaconf node becomes its content, any other object the
    dictionary of its attributes, or else the argument that it was made from (an enumeration's value)."""
    if isinstance(value, StandIn):
        state = value.state
        if isinstance(state, dict):
            content = {str(key): item for key, item in state.items()}
            return plain(content.get("_content", content.get("_val", content)))
        return plain(value.args[0]) if len(value.args) == 1 else [plain(item) for item in value.args]
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def array_of(value: Any, path: Path | str, dtypes: tuple[str, ...] = _FLOATS) -> np.ndarray:
    """A numpy array, perhaps read-only, from what `load_foreign` made of it; numpy's own unpickling is not used.

    Args:
        value: a tensor, or the `StandIn` of an array that numpy 1 or 2 pickled, or of `ndarray(shape, dtype, buffer)`.
        dtypes: names of the allowed dtypes.
    """
    if isinstance(value, torch.Tensor):
        array = value.detach().cpu()
        if str(array.dtype).removeprefix("torch.") not in dtypes:
            raise CheckpointError(f"{path}: holds an array of {array.dtype}, expected {' or '.join(dtypes)}")
        return array.numpy()
    try:
        shape, dtype, fortran, data = _array_parts(value)
        shape, dtype, data = tuple(int(size) for size in shape), np.dtype(_dtype_code(dtype)), bytes_of(data)
    except (TypeError, ValueError, AttributeError, OverflowError, IndexError):
        raise CheckpointError(f"{path}: holds a {_name_of(value)} where an array of numbers is expected") from None
    if dtype.name not in dtypes:
        raise CheckpointError(f"{path}: holds an array of {dtype}, expected {' or '.join(dtypes)}")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data):
        raise CheckpointError(f"{path}: damaged, {len(data)} bytes for an array of the shape {shape} of {dtype}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def bytes_of(value: Any) -> bytes | bytearray:
    """Bytes, also from the `StandIn` of the text that old pickle protocols write for them; else a TypeError or
    ValueError."""
    if isinstance(value, (bytes, bytearray)):
        return value
    name = _name_of(value)
    if name == "_codecs.encode":
        text, _ = value.args  # one letter of Latin-1 for each byte
        return str.encode(text, "latin1")
    if name.rsplit(".", 1)[-1] in ("bytes", "bytearray"):
        return bytes_of(value.args[0]) if value.args else b""
    raise TypeError(f"not bytes: {name}")


def _array_parts(value: Any) -> tuple:
    """(shape, dtype, is in Fortran's order, bytes) of the stand-in of an array."""
    name = _name_of(value).replace("numpy._core.", "numpy.core.")  # as numpy 2 calls it
    if name == "numpy.ndarray":
        shape, dtype, data = value.args
        return shape, dtype, False, data
    if name == "numpy.core.multiarray._reconstruct":
        _, shape, dtype, fortran, data = value.state
        return shape, dtype, fortran, data
    if name == "numpy.core.numeric._frombuffer":  # of pickle protocol 5
        data, dtype, shape, order = value.args
        return shape, dtype, order == "F", data
    raise TypeError("not an array")


def _dtype_code(dtype: Any) -> str:
    """`<f4` and the like: of text as it is, of a stand-in from its code and its byte order."""
    if isinstance(dtype, StandIn):
        code, order = dtype.args[0], dtype.state[1] if dtype.state else "|"
        dtype = (order if order in ("<", ">") else "") + code
    if not isinstance(dtype, str) or len(dtype) > 4:
        raise TypeError("not a plain dtype")
    return dtype


def _name_of(value: Any) -> str:
    return value.class_name if isinstance(value, StandIn) else type(value).__name__
