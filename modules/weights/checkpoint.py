"""Reading and writing weights: tensors only, written whole or not at all, numbered `PREFIX_STEP.pth`.

No file read here can run code: what asks for more than `torch.load` allows with `weights_only=True` is refused.
"""

import contextlib
import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from modules.errors import CheckpointError
from modules.files import atomic_path, is_zip
from modules.weights.int8 import is_packed, unpack
from modules.weights.names import list_checkpoints as list_checkpoints
from modules.weights.names import step_of as step_of

_RESTORE = "Restore it from a copy, or delete it."


class DamagedFile(CheckpointError):
    """A file of weights that was cut off or changed on its way, or that is none."""


def load_weights(path: Path | str) -> dict:
    """The content of a `.pth`, `.pt` or `.safetensors` file, on the CPU, memory-mapped where the format allows.

    Weights that are packed as int8 come back in float32.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        with _safetensors(path) as file:
            content = file.get_tensors()
    else:
        content = _load_pickled(path)
    try:
        content = unpack(content) if is_packed(content) else content
        packed = {key: unpack(value) for key, value in content.items() if isinstance(value, dict) and is_packed(value)}
    except ValueError as error:
        raise DamagedFile(f"{path}: damaged: {error}. Restore it from a copy.") from None
    return {**content, **packed} if packed else content


def load_checkpoint(path: Path | str) -> dict:
    """`load_weights` in the layout of a `.pth` file: of `.safetensors`, the tensors under `model` and beside them what
    the file says of itself, such as `config` and `card`: a text that is JSON as its value, any other as it is."""
    content = load_weights(path)
    if Path(path).suffix != ".safetensors":
        return content
    with _safetensors(path) as file:
        about = file.metadata() or {}
    about.pop("format", None)  # says which framework wrote the tensors
    for name, text in about.items():
        with contextlib.suppress(ValueError, RecursionError):
            about[name] = json.loads(text)
    return {**about, "model": content}


def check_whole(path: Path | str) -> None:
    """Compares a `.pth` file with the checksums inside it, which memory-mapped reading passes over; a DamagedFile where
    it was cut off or changed. Files older than torch 1.6 hold no checksums."""
    if not is_zip(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except Exception as error:  # damaged bytes raise a dozen kinds: encrypted, compressed in unknown ways, ...
        raise DamagedFile(f"{path}: damaged ({first_line(error)}). {_RESTORE}") from None
    if wrong:
        raise DamagedFile(f"{path}: damaged: {wrong} does not match its checksum. {_RESTORE}")


def save_weights(path: Path | str, content: dict) -> None:
    """Writes tensors and plain values; a crash leaves either the old file or the new one."""
    save_together({Path(path): content})


def save_together(contents: dict[Path, dict]) -> None:
    """Writes files that belong together: all are on disk before the first takes its name, the last one first."""
    path = None
    try:
        with contextlib.ExitStack() as stack:
            for path, content in contents.items():
                temporary = stack.enter_context(atomic_path(path))
                torch.save(content, temporary)
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: could not be written ({first_line(error)}). Free some disk space.") from None


def first_line(error: BaseException) -> str:
    """What an error says, short enough for a message of one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def _load_pickled(path: Path) -> dict:
    zipped = is_zip(path)
    try:
        with path.open("rb") as file:
            if not zipped and file.read(4) == b"PK\x03\x04":  # a zip without the list of contents that ends one
                raise EOFError("it was cut short")
        # Memory-mapping needs the zip layout of torch >= 1.6; older files are read whole.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        if wanted := re.search(r"GLOBAL ([\w.]+)", str(error)):
            text = f"{path}: refused, it holds more than tensors ({wanted[1]}) and reading it could run code"
            raise CheckpointError(f"{text}. Use a file from a source that saves plain weights.") from None
        raise DamagedFile(f"{path}: not a readable weights file ({first_line(error)})") from None
    except Exception as error:  # damaged bytes raise a dozen kinds: IndexError, AssertionError, struct.error, ...
        raise DamagedFile(f"{path}: damaged or not a weights file ({first_line(error)}). {_RESTORE}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected a dictionary of weights")
    return content


@contextlib.contextmanager
def _safetensors(path: Path | str) -> Iterator[Any]:
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            yield file
    except Exception as error:  # as above
        text = f"{path}: damaged or not a safetensors file ({first_line(error)}). Restore it from a copy."
        raise DamagedFile(text) from None
