"""The files of a clip's features: how they are written, and the one check that preprocessing, training, k-means and
the index share. What they hold is said in `modules.data.features`, what they are called in `modules.data.clips`."""

import json
import math
import stat
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from modules.data.clips import COMMAND, path_of, sidecar_of
from modules.errors import DataError, reason_of
from modules.files import atomic_path, read_bytes, sha256_of

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_LARGEST = 1e6  # in magnitude; Hz, units, spectra and natural logarithms all stay far below
_NEVER_NEGATIVE = ("f0", "spec", "volume", "aug_volume")
_LARGEST_SIDECAR = 1 << 20  # bytes


def read_file(
    wav_path: Path, name: str, shape: tuple[int | None, ...], command: str = COMMAND, numbers: bool = True
) -> torch.Tensor:
    """What a file of features holds; a DataError names the file, what is wrong and the command that makes it again.

    Args:
        shape: what it must have; None is any size above 0.
        numbers: also read and check each of them, as `read_numbers`; else they stay in the file, of any float type.
    """
    path = path_of(wav_path, name)
    try:
        require_regular(path)
        found = _map(path)
        problem = _problem_of(found, shape)
    except DataError as error:
        problem = reason_of(error, path)
    except FileNotFoundError:
        problem = "is missing"
    except OSError as error:
        problem = f"cannot be read ({reason_of(error, path)})"
    except Exception:  # damaged bytes raise a dozen kinds: IndexError, AssertionError, struct.error, ...
        problem = "is damaged"
    if problem is not None:
        raise DataError(f"{path}: {problem}. Make it again with: {command}")
    found = torch.as_tensor(found)
    return read_numbers(wav_path, name, found, command) if numbers else found


def read_numbers(wav_path: Path, name: str, found: torch.Tensor, command: str = COMMAND) -> torch.Tensor:
    """The numbers of a file that `read_file` left in it, float32; a DataError where they cannot be right."""
    read = found.to(torch.float32, copy=True)  # a copy: somebody may replace the file
    lowest, highest = (edge.item() for edge in read.aminmax())  # NaN where any number is NaN
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        problem = "holds values that are not finite"
    elif max(-lowest, highest) > _LARGEST or (name in _NEVER_NEGATIVE and lowest < 0):
        problem = f"holds values from {lowest:.3g} to {highest:.3g}, which it never does"
    else:
        return read
    raise DataError(f"{path_of(wav_path, name)}: {problem}; delete it. Make it again with: {command}")


def require_regular(path: Path) -> None:
    """Refuses a folder, a pipe or a device with a DataError, and what is not there with an OSError."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise DataError(f"{path}: is a folder; remove it")
    if not stat.S_ISREG(mode):  # reading a pipe would wait for ever
        raise DataError(f"{path}: is no regular file; remove it")


def write_file(wav_path: Path, name: str, value: torch.Tensor | np.ndarray | list[float]) -> None:
    """Writes one file of features in float32, whole or not at all."""
    path = path_of(wav_path, name)
    if path.is_dir():
        raise DataError(f"{path}: is a folder, where a file of features belongs; remove it")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        sink = _Sink(file)
        if path.suffix == ".pt":
            tensor = value.float().cpu().contiguous()
            is_part = tensor.untyped_storage().nbytes() > tensor.nbytes  # a view would drag its whole storage along
            torch.save(tensor.clone() if is_part else tensor, sink)
        else:
            np.save(sink, np.ascontiguousarray(value, np.float32), allow_pickle=False)
        if sink.error is not None:
            raise sink.error


class _Sink:
    """A file that keeps why it could not be written: numpy and torch lose that, and torch ends with a RuntimeError."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Writes, until the first error."""
        try:
            if self.error is None:
                self._file.write(data)
        except OSError as error:
            self.error = error
        return len(data)

    def flush(self) -> None:
        """Nothing: closing the file writes the rest."""


def stamp_of(path: Path) -> list[int] | None:
    """Size and time of a file, by which a change is seen without reading it; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def seal_of(path: Path) -> list[int | str]:
    """Size, time and SHA-256 of a file that was just made."""
    return [*(stamp_of(path) or []), sha256_of(path)]


def has_seal(path: Path, seal: object) -> bool:
    """Whether a file is the one that was sealed: by its size and time, or else by its content (a copied data set)."""
    found = stamp_of(path)
    if found is None or not isinstance(seal, list) or found[:1] != seal[:1]:
        return False
    return found == seal[:2] or (is_sealed(seal) and seal[2] == sha256_of(path))


def is_sealed(seal: object) -> bool:
    """Whether a checksum was kept; earlier versions kept size and time only."""
    return isinstance(seal, list) and len(seal) == 3


def read_sidecar(wav_path: Path) -> dict:
    """The sidecar's content, or nothing where it is absent or not ours."""
    try:
        stored = json.loads(read_bytes(sidecar_of(wav_path), _LARGEST_SIDECAR))
    except (OSError, ValueError, RecursionError):
        return {}
    is_ours = isinstance(stored, dict) and isinstance(stored.get("features"), dict)
    is_ours = is_ours and isinstance(stored.setdefault("files", {}), dict)
    return stored if is_ours and all(isinstance(part, dict) for part in stored["features"].values()) else {}


def _map(path: Path) -> torch.Tensor | np.ndarray:
    """What the file holds, its numbers still in the file: a header may announce more than there is memory."""
    try:
        with warnings.catch_warnings():  # both warn of oddities of files that are refused anyway
            warnings.simplefilter("ignore")
            if path.suffix == ".pt":
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            return np.load(path, mmap_mode="c", allow_pickle=False)
    except ValueError as error:
        if "allow_pickle" in str(error) or "Python objects" in str(error):
            raise DataError("is in so-vits-svc's pickled form, which could run code") from None
        raise


def _problem_of(found: object, shape: tuple[int | None, ...]) -> str | None:
    """What is wrong with the kind or the shape of what a file holds, all of which its header says."""
    if isinstance(found, np.ndarray):
        if found.dtype.kind != "f" or not found.dtype.isnative or found.dtype.itemsize > 8:
            return f"holds {found.dtype}, not float32"
        found = torch.from_numpy(found)
    if type(found) is not torch.Tensor:
        return f"holds {getattr(found, 'dtype', type(found).__name__)}"
    if found.layout != torch.strided or found.device.type != "cpu" or found.is_nested or found.dtype not in _FLOATS:
        kind = found.layout if found.layout != torch.strided else found.dtype
        return f"holds {found.device.type} {kind}, not float32"
    fits = found.dim() == len(shape) and 0 not in found.shape
    if not fits or any(wanted not in (None, size) for size, wanted in zip(found.shape, shape, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        return f"has the shape {tuple(found.shape)}, not ({wanted})"
    if found.numel() * found.element_size() > found.untyped_storage().nbytes():
        return "is damaged (it announces more numbers than it holds)"
    return None
