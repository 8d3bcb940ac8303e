"""Reading and writing weights: tensors only, written whole or not at all, numbered `PREFIX_STEP.pth`.

No file read here can run code: `torch.load` is called with `weights_only=True`, and whatever asks for more is refused
with its name.
"""

import contextlib
import json
import logging
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from modules.errors import CheckpointError
from modules.files import atomic_path, is_zip
from modules.weights.int8 import is_packed, unpack

logger = logging.getLogger(__name__)


class DamagedFile(CheckpointError):
    """A file of weights that was cut off or changed on its way."""


def load_weights(path: Path | str) -> dict:
    """The content of a `.pth`, `.pt` or `.safetensors` file, on the CPU, memory-mapped where the format allows.

    Weights that are packed as int8 come back in float32.

    Raises:
        CheckpointError: no such file, damaged, not a weights file, or it asks to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    if _is_half_a_zip(path):
        raise DamagedFile(f"{path}: damaged, it was cut short. Restore it from a copy, or delete it.")
    try:
        # Memory-mapping needs the zip layout of torch >= 1.6; older files are read whole.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip(path))
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted:
            raise CheckpointError(
                f"{path}: refused, it holds more than tensors ({wanted[1]}) and reading it could run code. "
                "Use a file from a source that saves plain weights."
            ) from None
        raise DamagedFile(f"{path}: not a readable weights file ({_first_line(error)})") from None
    except Exception as error:  # damaged bytes raise a dozen kinds: IndexError, AssertionError, struct.error, ...
        raise DamagedFile(
            f"{path}: damaged or not a weights file ({_first_line(error)}). Restore it from a copy, or delete it."
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected a dictionary of weights")
    return _unpacked(content, path)


def load_checkpoint(path: Path | str) -> dict:
    """`load_weights` in the layout of a `.pth` file: of `.safetensors`, the tensors under `model` and beside them what
    the file says of itself, such as `config` and `card`; errors as `load_weights`."""
    content = load_weights(path)
    return {**safetensors_metadata(path), "model": content} if Path(path).suffix == ".safetensors" else content


def check_whole(path: Path | str) -> None:
    """Compares a `.pth` file with the checksums inside it, which a memory-mapped reading passes over.

    Raises:
        DamagedFile: it was cut off or changed; files older than torch 1.6 hold no checksums.
    """
    if not is_zip(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except Exception as error:  # damaged bytes raise a dozen kinds: encrypted, compressed in unknown ways, ...
        raise DamagedFile(f"{path}: damaged ({_first_line(error)}). Restore it from a copy, or delete it.") from None
    if wrong:
        raise DamagedFile(
            f"{path}: damaged: {wrong} does not match its checksum. Restore it from a copy, or delete it."
        )


def save_weights(path: Path | str, content: dict) -> None:
    """Writes tensors and plain values; a crash leaves either the old file or the new one.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written.
    """
    save_together({Path(path): content})


def save_together(contents: dict[Path, dict]) -> None:
    """Writes files that belong together: all are on disk before the first takes its name, the last one first.

    Args:
        contents: file -> tensors and plain values.

    Raises:
        CheckpointError: as `save_weights`.
    """
    path = None
    try:
        with contextlib.ExitStack() as stack:
            for path, content in contents.items():
                temporary = stack.enter_context(atomic_path(path))
                torch.save(content, temporary)
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: could not be written ({_first_line(error)}). Free some disk space.") from None


def step_of(path: Path | str) -> int | None:
    """The step in a name like `G_1600.pth` or `model_2000.pt`, or None where the name has none."""
    match = re.fullmatch(r"[A-Za-z]+_(\d+)\.(?:pth|pt)", Path(path).name)
    return int(match[1]) if match else None


def list_checkpoints(folder: Path | str, prefix: str) -> list[Path]:
    """Files `PREFIX_STEP.pth` or `.pt` in `folder`, oldest step first."""
    found = [path for path in Path(folder).glob(f"{prefix}_*.p*t*") if step_of(path) is not None]
    return sorted(found, key=step_of)


def _is_half_a_zip(path: Path) -> bool:
    """Whether it begins as a zip but has not the list of contents that ends one."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04" and not is_zip(path)
    except OSError:
        return False  # the reading that follows says why


def safetensors_metadata(path: Path | str) -> dict[str, Any]:
    """What a `.safetensors` file says beside its tensors: a text that is JSON as its value, any other as it is.

    Raises:
        CheckpointError: damaged.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            texts = file.metadata() or {}
    except Exception as error:  # damaged bytes raise a dozen kinds
        raise _not_safetensors(Path(path), error) from None
    return {name: _from_json(text) for name, text in texts.items()}


def _load_safetensors(path: Path) -> dict:
    from safetensors.torch import load_file

    try:
        content = load_file(path)
    except Exception as error:
        raise _not_safetensors(path, error) from None
    return _unpacked(content, path)


def _unpacked(content: dict, path: Path) -> dict:
    """Content whose packed tensors, its own or those of an entry, are unpacked."""
    try:
        content = unpack(content) if is_packed(content) else content
        packed = {key: unpack(value) for key, value in content.items() if isinstance(value, dict) and is_packed(value)}
    except ValueError as error:
        raise DamagedFile(f"{path}: damaged: {error}. Restore it from a copy.") from None
    return {**content, **packed} if packed else content


def _not_safetensors(path: Path, error: Exception) -> DamagedFile:
    return DamagedFile(f"{path}: damaged or not a safetensors file ({_first_line(error)}). Restore it from a copy.")


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
