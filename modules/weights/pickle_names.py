"""Which classes and functions the pickles in a file ask for, read without unpickling anything.

A pickle is a small program; what it can do besides holding values is to call what it names. Here its instructions are
only listed.
"""

import _compat_pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from modules.errors import CheckpointError
from modules.files import is_zip

_LEGACY_PICKLES = 5  # torch before 1.6: magic number, protocol, machine, content, names of the storages
_LEGACY_MAGIC = bytes.fromhex("8a0a6cfc9c46f9206aa85019")
_MOST_PICKLED = 1 << 26  # bytes of settings and names in a zip; more is an attack on the memory
# What tensors, arrays, their types and dictionaries of them are pickled with, by torch and by numpy.
_TENSORS = re.compile(
    r"torch\.(\w+\.)?(\w+Storage|\w*Tensor|[a-z]+\d\w*|bool|Size|device)|torch\.serialization\._get_layout"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|tensor_v3|parameter|sparse_tensor|qtensor)"
    r"|torch\.nn\.parameter\.Parameter|collections\.OrderedDict|_codecs\.encode|numpy\.(ndarray|dtype|float\d+|int\d+)"
    r"|numpy\.(_core|core)\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)"
)


def asked_names(path: Path | str) -> list[str]:
    """Dotted names that the pickles in a file ask for, tensors' own among them, sorted.

    Args:
        path: torch's zip, a file of torch before 1.6, or one pickle.

    Raises:
        CheckpointError: damaged, or no pickle.
    """
    path = Path(path)
    found: set[str] = set()
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        for pickle in _pickles_of(path):
            found |= _names_in(pickle)
    except Exception as error:  # damaged bytes raise a dozen kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise CheckpointError(
            f"{path}: damaged or not a weights file ({reason}). Restore it from a copy, or download it again."
        ) from None
    return sorted(found)


def is_tensor_name(name: str) -> bool:
    """Whether a dotted name is one that tensors and arrays are pickled with."""
    return _TENSORS.fullmatch(name) is not None


def _todays_name(module: str, name: str) -> str:
    """`__builtin__.long` is what Python 2, and protocols of its time, call `builtins.int`."""
    module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
    return f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}"


def _pickles_of(path: Path) -> Iterator[IO[bytes]]:
    if is_zip(path):
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.filename.endswith(".pkl"):
                    if member.file_size > _MOST_PICKLED:
                        raise ValueError(f"{member.filename} is {member.file_size} bytes long")
                    with archive.open(member) as file:
                        yield file
        return
    with path.open("rb") as file:
        start = file.read(32)
        if start.startswith(b"PK"):
            raise ValueError("a zip without its end: it was cut short")
        is_legacy = _LEGACY_MAGIC in start
        file.seek(0)
        for _ in range(_LEGACY_PICKLES if is_legacy else 1):
            yield file


def _names_in(pickle: IO[bytes]) -> set[str]:
    """Names in one pickle; texts that it remembered earlier and takes up again are followed."""
    found: set[str] = set()
    memo: dict[int, str | None] = {}
    recent: list[str | None] = [None, None]  # the last values put on the stack; None for what is no text
    for opcode, argument, _ in pickletools.genops(pickle):
        name = opcode.name
        if name in ("GLOBAL", "INST"):
            found.add(_todays_name(*argument.split(" ", 1)))
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
