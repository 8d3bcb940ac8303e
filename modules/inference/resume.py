"""The unfinished result of a conversion: on disk from the first sample on, so that nothing finished is lost.

    .NAME.PID.unfinished     one line of JSON (which request), then the samples as they are made, float32

When all is there it is written in its final format under its own name, whole or not at all, and this file goes. After
an interruption, an error or a power cut it stays, and the same request can go on from where it ends.
"""

import json
import os
import re
from pathlib import Path

import numpy as np

from modules.audio.io import StreamWriter
from modules.errors import AudioError
from modules.files import is_alive

_LONGEST_HEADER = 4096
_COPY_SAMPLES = 441_000


class PartialResult:
    """Samples of a result on their way to `path`. A context manager: leaving it keeps an unfinished file."""

    def __init__(self, path: Path, key: str, resume: bool) -> None:
        """Goes on with what an earlier run left of the same request (equal `key`), or deletes that unless `resume`."""
        self.path, self.n_samples = path, 0
        self._file = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
        self._header = (json.dumps({"request": key}) + "\n").encode("ascii")
        found = unfinished_files(path)
        try:
            for old in found if resume else ():
                if (n_samples := _count_samples(old, self._header)) > self.n_samples:
                    old.replace(self._file)
                    self.n_samples = n_samples
            for old in found:
                if old != self._file:
                    old.unlink(missing_ok=True)
            self._stream = self._file.open("r+b" if self.n_samples else "wb")
            if self.n_samples:
                self._stream.seek(len(self._header) + 4 * self.n_samples)
                self._stream.truncate()  # a sample that was cut in half
            else:
                self._stream.write(self._header)
        except OSError as error:
            raise AudioError(f"{path}: cannot be written ({error.strerror})") from None

    def __enter__(self) -> "PartialResult":
        return self

    def write(self, wav: np.ndarray) -> None:
        """Appends (T,) float samples."""
        try:
            self._stream.write(np.ascontiguousarray(wav, "<f4").tobytes())
            self._stream.flush()
        except OSError as error:
            raise AudioError(f"{self.path}: writing failed ({error.strerror}). Is the disk full?") from None
        self.n_samples += len(wav)

    def finish(self, rate: int, output_format: str, tags: dict[str, str] | None = None) -> None:
        """Gives the result its format, its name, and the texts that say what it is."""
        self._stream.close()
        with StreamWriter(self.path, rate, output_format, tags) as writer, self._file.open("rb") as stream:
            stream.seek(len(self._header))
            while block := stream.read(4 * _COPY_SAMPLES):
                writer.write(np.frombuffer(block, "<f4"))
        self._file.unlink(missing_ok=True)

    def __exit__(self, *error: object) -> None:
        self._stream.close()
        if not self.n_samples:
            self._file.unlink(missing_ok=True)


def unfinished_files(path: Path) -> list[Path]:
    """Unfinished files of a result whose process has ended, oldest first."""
    name = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.unfinished")
    found = []
    for candidate in path.parent.glob(".*.unfinished"):
        match = name.fullmatch(candidate.name)
        if match and (int(match[1]) == os.getpid() or not is_alive(int(match[1]))):
            found.append(candidate)
    return sorted(found, key=lambda candidate: candidate.stat().st_mtime)


def _count_samples(file: Path, header: bytes) -> int:
    """Whole samples in an unfinished file; 0 where it is of another request."""
    with file.open("rb") as stream:
        if stream.readline(_LONGEST_HEADER) != header:
            return 0
    return (file.stat().st_size - len(header)) // 4
