"""An audio file that has been opened: what it holds, how to read it, and what is unusual about it."""

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from modules.errors import AudioError

SMALL_SECONDS = 0.1  # that a header may announce too much; where more is missing, the file lost its end
OPEN_END = "its header does not say how long it is; all that is there was taken"
FETCH = "Copy or download it again"
ADVICE = f"{FETCH}, or save it as wav or flac with a program that plays it"
_LONGEST_SECONDS = 1e6  # eleven days: whoever announces more did not know
_RATES = range(1000, 1_000_001)  # a header that says anything else is damaged, and resampling from 1 Hz eats all memory


@dataclass
class Sound:
    """An audio file opened: what it holds, and how to read it."""

    rate: int  # Hz
    channels: int
    n_samples: int | None  # per channel; None where only decoding tells
    blocks: Callable[[], Iterator[np.ndarray]]  # (n, channels) float32 from the start, of any length
    notes: list[str] = field(default_factory=list)  # what is unusual, without the file's name; decoding may add to it

    def note(self, text: str) -> None:
        """Adds a note, once."""
        if text not in self.notes:
            self.notes.append(text)


def system_name(path: Path) -> "Path | bytes":
    """A file's name as libsndfile takes it; on POSIX systems a name need not be Unicode."""
    return path if os.name == "nt" else os.fsencode(path)


def check_rate(path: Path, rate: int) -> int:
    """A rate in Hz that can be true; else an AudioError."""
    if rate not in _RATES:
        wanted = f"expected {_RATES[0]} to {_RATES[-1]} Hz; it may be damaged"
        raise AudioError(f"{path}: its header says {rate} Hz, {wanted}")
    return rate


def compare_lengths(path: Path, sound: Sound, announced: float, there: float, missing_allowed: float = 0.0) -> None:
    """Notes that a header announces another length than is there; an AudioError where a real part is missing.

    Lengths are in seconds; `missing_allowed` is what formats that code in packets may round to.
    """
    if announced > _LONGEST_SECONDS:
        return sound.note(OPEN_END)
    missing = announced - there
    if missing > max(SMALL_SECONDS, missing_allowed):
        told = f"{there:.1f} s of the {announced:.1f} s it announces are there"
        raise AudioError(f"{path}: truncated or damaged: {told}. {FETCH}.")
    if abs(missing) <= missing_allowed:
        return None
    told = f"{abs(missing) * 1000:.3g} ms {'more' if missing > 0 else 'less'} than is there"
    if abs(missing) > SMALL_SECONDS:
        told = f"{announced:.2f} s, but {there:.2f} s are there"
    return sound.note(f"its header announces {told}; all that is there was taken")


class FileRange(io.RawIOBase):
    """Bytes `start` to `stop` (None: to the end) of a file, as a file of their own."""

    def __init__(self, path: Path, start: int, stop: int | None) -> None:
        self._file = path.open("rb")
        size = path.stat().st_size
        self._start, self._size, self._at = start, (size if stop is None else stop) - start, 0
        self.is_whole = self._size == size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        room = memoryview(buffer).cast("B")[: max(0, self._size - self._at)]
        if not room:
            return 0
        self._file.seek(self._start + self._at)
        n_read = self._file.readinto(room)
        self._at += n_read
        return n_read

    def close(self) -> None:
        self._file.close()
        super().close()
