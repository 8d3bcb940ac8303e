"""The unfinished result of a conversion: on disk from the first sample on, so that nothing finished is lost.

    .NAME.KEY.PID.unfinished   one line of JSON (which request), then the samples as they are made, float32

When all is there it is written in its final format under its own name, whole or not at all, and this file goes. After
an interruption, an error or a power cut it stays, and the same request can go on from where it ends.
"""

import contextlib
import json
import os
import re
import time
from pathlib import Path

import numpy as np

from modules.audio.io import StreamWriter
from modules.errors import AudioError, reason_of
from modules.files import discard, is_alive

_LONGEST_HEADER = 4096
_COPY_SAMPLES = 441_000
_NAME = re.compile(r"\..+\.(\d+)\.unfinished")
_KEPT_SECONDS = 30 * 24 * 3600  # what nobody has gone on with since, nobody will


class PartialResult:
    """Samples of a result on their way to `path`. A context manager: leaving it keeps an unfinished file."""

    def __init__(self, path: Path, key: str, resume: bool) -> None:
        """Goes on with what an earlier run left of the same request (equal `key`), or deletes that unless `resume`."""
        self.path, self.n_samples = path, 0
        self._file = path.with_name(f".{path.name}.{key[:8]}.{os.getpid()}.unfinished")
        self._header = (json.dumps({"request": key}) + "\n").encode("ascii")
        try:
            found = [(file, _count_samples(file, self._header)) for file in unfinished_files(path.parent)]
            for old, n_samples in found:
                if n_samples is None:
                    continue  # of another request, which may go on with it
                if resume and n_samples > self.n_samples:
                    old.replace(self._file)
                    self.n_samples = n_samples
                elif old != self._file:
                    old.unlink(missing_ok=True)
            self._stream = self._file.open("r+b" if self.n_samples else "wb")
            if self.n_samples:
                self._stream.seek(len(self._header) + 4 * self.n_samples)
                self._stream.truncate()  # a sample that was cut in half
            else:
                self._stream.write(self._header)
        except OSError as error:
            raise AudioError(f"{path}: cannot be written ({reason_of(error, self._file)})") from None

    def __enter__(self) -> "PartialResult":
        return self

    def write(self, wav: np.ndarray) -> None:
        """Appends (T,) float samples."""
        try:
            self._stream.write(np.ascontiguousarray(wav, "<f4").tobytes())
            self._stream.flush()
        except OSError as error:
            raise AudioError(f"{self.path}: writing failed ({reason_of(error, self._file)})") from None
        self.n_samples += len(wav)

    def finish(self, rate: int, output_format: str, tags: dict[str, str] | None = None) -> None:
        """Gives the result its format, its name, and the texts that say what it is."""
        self._stream.close()
        with StreamWriter(self.path, rate, output_format, tags) as writer, self._file.open("rb") as stream:
            stream.seek(len(self._header))
            while block := stream.read(4 * _COPY_SAMPLES):
                writer.write(np.frombuffer(block, "<f4"))
        self._file.unlink(missing_ok=True)

    def __exit__(self, kind: type | None, *error: object) -> None:
        with contextlib.suppress(*[OSError] if kind else []):  # what a full disk refused is refused again
            self._stream.close()
        if not self.n_samples:
            self._file.unlink(missing_ok=True)


def unfinished_files(folder: Path) -> list[Path]:
    """Unfinished files in a folder whose process has ended, oldest first; what is a month old is deleted."""
    found = []
    for candidate in folder.glob(".*.unfinished"):
        match = _NAME.fullmatch(candidate.name)
        if match and candidate.is_file() and (int(match[1]) == os.getpid() or not is_alive(int(match[1]))):
            changed = candidate.stat().st_mtime
            if time.time() - changed > _KEPT_SECONDS:
                discard(candidate)
            else:
                found.append((changed, candidate))
    return [candidate for _, candidate in sorted(found)]


def _count_samples(file: Path, header: bytes) -> int | None:
    """Whole samples in an unfinished file; None where it is of another request."""
    with file.open("rb") as stream:
        if stream.readline(_LONGEST_HEADER) != header:
            return None
    return (file.stat().st_size - len(header)) // 4
