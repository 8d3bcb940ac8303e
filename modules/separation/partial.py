"""What a network has given so far, on disk: a killed separation goes on from there."""

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from modules.files import discard, write_json

_SAVE_SECONDS = 5.0  # between two notes of how far it is
_BLOCK = 1 << 16  # samples


class PartialSound:
    """`.NAME.part`, float32 samples of all channels by turns, and `.NAME.part.json`, what they are and how many."""

    def __init__(self, folder: Path, name: str, key: dict, channels: int) -> None:
        """Takes up what is there of the same `key`; of another one it is deleted."""
        self._path, self._note = folder / f".{name}.part", folder / f".{name}.part.json"
        self._key, self._channels = {**key, "channels": channels}, channels
        self.done, self.is_complete = 0, False  # samples per channel
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            found = json.loads(self._note.read_text("utf-8"))
            done = int(found["done"])
            if found["key"] == self._key and 0 <= done * self._frame <= self._path.stat().st_size:
                self.done, self.is_complete = done, bool(found["is_complete"])
        if not self.done:
            self.remove()

    @property
    def _frame(self) -> int:
        return 4 * self._channels

    def fill(self, blocks: Iterable[np.ndarray]) -> Iterator[int]:
        """Appends (n, C) blocks; gives how many samples each has. What is appended is kept wherever this ends."""
        self._path.touch()
        with self._path.open("r+b") as file:
            file.truncate(self.done * self._frame)
            file.seek(0, os.SEEK_END)
            saved, done = time.monotonic(), self.done
            try:
                for block in blocks:
                    file.write(np.ascontiguousarray(block, np.float32).tobytes())
                    done += len(block)
                    if time.monotonic() - saved >= _SAVE_SECONDS:
                        self._save(file, done)
                        saved = time.monotonic()
                    yield len(block)
                self.is_complete = True
            finally:
                self._save(file, done)

    def _save(self, file, done: int) -> None:
        file.flush()
        os.fsync(file.fileno())
        self.done = done
        write_json(self._note, {"key": self._key, "done": done, "is_complete": self.is_complete})

    def blocks(self) -> Iterator[np.ndarray]:
        """(n, C) float32, all that is there."""
        with self._path.open("rb") as file:
            while data := file.read(_BLOCK * self._frame):
                yield np.frombuffer(data, np.float32).reshape(-1, self._channels)

    def remove(self) -> None:
        """Deletes it."""
        for path in (self._note, self._path):
            discard(path)
