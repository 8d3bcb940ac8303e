"""Reading checkpoints that other tools wrote, without their packages and without running anything in them.

fairseq and others save their settings beside the tensors, as objects of their own classes. Here every such object
becomes an inert `Stand-in` that only holds what was stored. Names from anywhere else are refused before a byte is
unpickled, and the unpickler itself is torch's restricted one, which knows no others.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modules.errors import CheckpointError
from modules.files import is_zip
from modules.weights.checkpoint import load_weights
from modules.weights.pickle_names import asked_names

# Packages whose objects are settings and may be stood in for; a dot at the end means everything below.
_SETTINGS = (
    "fairseq.",
    "omegaconf.",
    "hydra.",
    "argparse.Namespace",
    "typing.",
    "collections.",
    "enum.",
    "numpy.",
)
_PLAIN_TYPES = (dict, list, tuple, set, frozenset, int, float, complex, bool, str, bytes, bytearray, slice, range)
_BUILTINS = {f"{module}.{kind.__name__}": kind for module in ("builtins", "__builtin__") for kind in _PLAIN_TYPES}
_BUILTINS |= {f"{module}.object": None for module in ("builtins", "__builtin__")}
# Where tools keep the weights, in the order in which they are looked for.
_WEIGHT_KEYS = ("model", "state_dict", "model_state_dict", "hubert", "generator", "net")
_FLOATS = ("float16", "float32", "float64")
# How numpy 1 and 2 name what rebuilds an array; the third is what they write with pickle protocol 5.
_RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_FROMBUFFER = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")


class StandIn:
    """What is left of an object of a foreign class: its name, what it was made from and its state.

    Args:
        args: what the constructor was called with.
    """

    class_name = ""
    args: tuple = ()  # stays so where pickle makes the object without calling its class
    state: Any = None

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __hash__(self) -> int:
        return id(self)


def load_foreign(path: Path | str) -> dict:
    """The content of a checkpoint, tensors on the CPU, settings as `StandIn` objects (see `plain`).

    Args:
        path: `.pt`, `.pth` or `.safetensors`.

    Raises:
        CheckpointError: no such file, damaged, or it names something that is neither a tensor nor a setting.
    """
    path = Path(path)
    if path.suffix == ".safetensors" or not path.is_file():
        return load_weights(path)
    wanted = _globals_of(path)
    refused = sorted(name for name in wanted if not is_settings_name(name))
    if refused:
        raise CheckpointError(
            f"{path}: refused, it holds more than weights and settings ({', '.join(refused[:4])}) and reading it could "
            "run code. Get the file from its original source."
        )
    allowed = [(_BUILTINS.get(name) or stand_in(name), name) for name in wanted]
    with torch.serialization.safe_globals(allowed):
        return load_weights(path)


def plain(value: Any) -> Any:
    """Settings as plain dictionaries, lists and values, whatever they were stored as.

    An omegaconf node becomes its content, any other object the dictionary of its attributes, or else the argument that
    it was made from (an enumeration's value).
    """
    if isinstance(value, StandIn):
        state = value.state
        if isinstance(state, dict):
            for key in ("_content", "_val"):
                if key in state:
                    return plain(state[key])
            return {str(key): plain(item) for key, item in state.items()}
        return plain(value.args[0]) if len(value.args) == 1 else [plain(item) for item in value.args]
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def state_dict_of(content: dict, path: Path | str) -> dict[str, torch.Tensor]:
    """The weights in what `load_foreign` returned, however they are wrapped, without a leading `module.`.

    Args:
        content: the whole file.
        path: for the message.

    Raises:
        CheckpointError: no weights in it.
    """
    for candidate in (content, *(content[key] for key in _WEIGHT_KEYS if isinstance(content.get(key), dict))):
        tensors = {name: value for name, value in candidate.items() if isinstance(value, torch.Tensor)}
        if tensors:
            prefix = "module." if all(name.startswith("module.") for name in tensors) else ""
            return {name.removeprefix(prefix): value for name, value in tensors.items()}
    keys = ", ".join(sorted(map(str, content))[:6])
    raise CheckpointError(f"{path}: holds no weights (its entries: {keys or 'none'})")


def array_of(value: Any, path: Path | str, dtypes: tuple[str, ...] = _FLOATS) -> np.ndarray:
    """A numpy array from what `load_foreign` made of it; numpy's own unpickling is not used.

    Args:
        value: a tensor, or the `StandIn` of an array that numpy 1 or 2 pickled, or of `ndarray(shape, dtype, buffer)`.
        path: for the message.
        dtypes: names of the allowed dtypes.

    Returns:
        The array; it may be read-only.

    Raises:
        CheckpointError: something else, another dtype, or bytes that do not fill the shape.
    """
    if isinstance(value, torch.Tensor):
        array = value.detach().cpu()
        if str(array.dtype).removeprefix("torch.") not in dtypes:
            raise CheckpointError(f"{path}: holds an array of {array.dtype}, expected {' or '.join(dtypes)}")
        return array.numpy()
    try:
        shape, dtype, fortran, data = _array_parts(value)
        shape = tuple(int(size) for size in shape)
        dtype, data = np.dtype(dtype), bytes_of(data)
    except (TypeError, ValueError, AttributeError, OverflowError, IndexError):
        raise CheckpointError(f"{path}: holds a {_name_of(value)} where an array of numbers is expected") from None
    if dtype.name not in dtypes:
        raise CheckpointError(f"{path}: holds an array of {dtype}, expected {' or '.join(dtypes)}")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data):
        raise CheckpointError(f"{path}: damaged, {len(data)} bytes for an array of the shape {shape} of {dtype}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def bytes_of(value: Any) -> bytes | bytearray:
    """Bytes, also from the `StandIn` of the text that old pickle protocols write for them.

    Raises:
        TypeError, ValueError: something else.
    """
    if isinstance(value, (bytes, bytearray)):
        return value
    if isinstance(value, StandIn) and value.class_name == "_codecs.encode":
        text, _ = value.args  # one letter of Latin-1 for each byte
        return str.encode(text, "latin1")
    if isinstance(value, StandIn) and value.class_name.rsplit(".", 1)[-1] in ("bytes", "bytearray"):
        return bytes_of(value.args[0]) if value.args else b""
    raise TypeError(f"not bytes: {_name_of(value)}")


def _array_parts(value: Any) -> tuple:
    """(shape, dtype, is in Fortran's order, bytes) of the stand-in of an array."""
    name = value.class_name if isinstance(value, StandIn) else ""
    if name == "numpy.ndarray":
        shape, dtype, data = value.args
        return shape, _dtype_code(dtype), False, data
    if name in _RECONSTRUCT:
        _, shape, dtype, fortran, data = value.state
        return shape, _dtype_code(dtype), fortran, data
    if name in _FROMBUFFER:
        data, dtype, shape, order = value.args
        return shape, _dtype_code(dtype), order == "F", data
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


def stand_in(name: str) -> type[StandIn]:
    """A class that stands in for the one of that dotted name."""
    return type(name.rsplit(".", 1)[-1], (StandIn,), {"class_name": name})


def is_settings_name(name: str) -> bool:
    """Whether a dotted name stands for settings, of which `load_foreign` makes inert stand-ins."""
    return name in _BUILTINS or (name.startswith(_SETTINGS) and name.isprintable())


def _globals_of(path: Path) -> set[str]:
    """Dotted names that the file's pickles ask for beyond what torch itself allows; nothing is unpickled.

    Raises:
        CheckpointError: damaged.
    """
    if not is_zip(path):
        known = {"collections.OrderedDict", "_codecs.encode"}  # to torch
        return {name for name in asked_names(path) if not name.startswith("torch.") and name not in known}
    try:
        return set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception as error:  # damaged bytes raise a dozen kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise CheckpointError(
            f"{path}: damaged or not a weights file ({reason}). Restore it from a copy, or download it again."
        ) from None
