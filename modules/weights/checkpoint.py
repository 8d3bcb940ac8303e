"""Reading and writing weights: tensors only, written whole or not at all, numbered `PREFIX_STEP.pth`.

No file read here can run code: what asks for more than `torch.load` allows with `weights_only=True` is refused.
"""

import contextlib
import json
import os
import pickle
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from modules.errors import CheckpointError, is_out_of_memory, reason_of
from modules.files import atomic_path, is_zip
from modules.weights.about import MOST_PICKLED as MOST_PICKLED
from modules.weights.int8 import is_packed, unpack
from modules.weights.names import list_checkpoints as list_checkpoints
from modules.weights.names import step_of as step_of

CHECKSUM = "crc32"  # what our .safetensors call it among the texts that go with the tensors, which have none
_RESTORE = "Restore it from a copy, or give another file."
_MOST_NUMBERS = 1 << 28  # in a tensor, which may repeat the few that are in the file


class DamagedFile(CheckpointError):
    """A file of weights that was cut off or changed on its way, or that is none."""


def load_weights(path: Path | str) -> dict:
    """The content of a `.pth`, `.pt` or `.safetensors` file, on the CPU, memory-mapped where the format allows.

    A zip is compared with its checksums first (`check_whole`), and tensors in .safetensors with `CHECKSUM`, where there
    is one. Weights packed as int8 come back in float32.
    """
    path = Path(path)
    require_readable(path)
    if path.suffix == ".safetensors":
        with _safetensors(path) as file:
            content, told = file.get_tensors(), (file.metadata() or {}).get(CHECKSUM)
        if told is not None and told != checksum_of(content):
            raise DamagedFile(f"{path}: damaged: its tensors do not match its checksum. {_RESTORE}")
    else:
        check_whole(path)
        content = _load_pickled(path)
        _require_plain_tensors(content, path)
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
    for key in ("format", CHECKSUM):  # what the tensors were written by, and whether they still are the same
        about.pop(key, None)
    for name, text in about.items():
        with contextlib.suppress(ValueError, RecursionError):
            about[name] = json.loads(text)
    return {**about, "model": content}


def read_as_stored(path: Path) -> dict:
    """The content of a `.pth` file in memory, packed tensors as they are: the file itself may then be replaced."""
    require_readable(path)
    content = _load_pickled(path, mapped=False)
    _require_plain_tensors(content, path)
    return content


def checksum_of(tensors: dict[str, torch.Tensor]) -> str:
    """CRC-32 of the bytes of tensors in the order of their names, as hex digits."""
    number = 0
    for name in sorted(tensors):
        number = zlib.crc32(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy(), number)
    return f"{number:08x}"


def require_readable(path: Path) -> None:
    """Refuses a file that is not there, or that may not be read, which is no reason to delete it."""
    if not path.is_file():
        raise CheckpointError(f"{path}: {'is a folder; name a file in it' if path.is_dir() else 'no such file'}")
    try:
        path.open("rb").close()
    except OSError as error:
        remedy = "Change its permissions, or copy it to where you may read it."
        raise CheckpointError(f"{path}: cannot be read ({reason_of(error, path)}). {remedy}") from None


def check_whole(path: Path | str) -> None:
    """Compares a `.pth` file with the checksums inside it, which memory-mapped reading passes over (0.2 s for 500 MB);
    a DamagedFile where it was cut off or changed. Files older than torch 1.6 hold no checksums."""
    if not is_zip(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                # torch never compresses; memory-mapped, it would take compressed bytes for numbers.
                if member.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{member.filename} is compressed")
                if member.filename.endswith(".pkl") and member.file_size > MOST_PICKLED:
                    raise ValueError(f"{member.filename} is {member.file_size} bytes long")
            wrong = archive.testzip()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({reason_of(error, path)}). Copy it anew.") from None
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
                with stack.enter_context(atomic_path(path)).open("wb") as file:
                    torch.save(content, file)
                    file.flush()
                    os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        # torch says where in the archive it stood when the system refused, and hides why.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        reason = reason_of(cause, path) if isinstance(cause, OSError) else first_line(error)
        remedy = "Free some disk space, or make the folder writable."
        raise CheckpointError(f"{path}: could not be written ({reason}). {remedy}") from None


def first_line(error: BaseException) -> str:
    """What an error says, short enough for a message of one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def _load_pickled(path: Path, mapped: bool = True) -> dict:
    zipped = is_zip(path)
    try:
        with path.open("rb") as file:
            if not zipped and file.read(4) == b"PK\x03\x04":  # a zip without the list of contents that ends one
                raise EOFError("it was cut short")
        # Memory-mapping needs the zip layout of torch >= 1.6; older files are read whole.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped and mapped)
    except pickle.UnpicklingError as error:
        if wanted := re.search(r"GLOBAL ([\w.]+)", str(error)):
            text = f"{path}: refused, it holds more than tensors ({wanted[1]}) and reading it could run code"
            raise CheckpointError(f"{text}. Use a file from a source that saves plain weights.") from None
        reason = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))  # after a page of advice on other loaders
        reason = reason[1][:160] if reason else first_line(error)
        raise DamagedFile(f"{path}: damaged or not a weights file ({reason}). {_RESTORE}") from None
    except Exception as error:  # damaged bytes raise a dozen kinds: IndexError, AssertionError, struct.error, ...
        if is_out_of_memory(error):
            raise
        raise DamagedFile(f"{path}: damaged or not a weights file ({first_line(error)}). {_RESTORE}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected a dictionary of weights")
    return content


def _require_plain_tensors(content: dict, path: Path) -> None:
    """Refuses tensors that no model here has, and that others choke on: sparse, quantised, without data, endless."""
    waiting: list[Any] = [content]  # not by recursion: a file may be nested 100,000 deep
    seen = set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            kind = None
            if value.layout != torch.strided or value.is_quantized or value.is_nested:
                kind = "sparse, nested or quantised"
            elif value.is_meta:
                kind = "without data"
            elif value.numel() > _MOST_NUMBERS:
                kind = f"of {value.numel()} numbers, more than any model has"
            if kind:
                raise CheckpointError(f"{path}: holds a tensor that is {kind}. Get the file from its original source.")
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if isinstance(value, dict) else value


@contextlib.contextmanager
def _safetensors(path: Path | str) -> Iterator[Any]:
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            yield file
    except Exception as error:  # as above
        text = f"{path}: damaged or not a safetensors file ({first_line(error)}). Restore it from a copy."
        raise DamagedFile(text) from None
