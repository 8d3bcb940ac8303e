"""What a recording becomes, and what is done already.

A manifest (`.resample.json` in the output folder) remembers from which source and with which settings each clip was
made, so that a second run does only what is new or changed, and never touches a file that somebody else wrote.
numpy only: spawned workers start fast.
"""

import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from modules.audio.io import read, resample, to_int16, write
from modules.audio.loudness import peak_normalise, trim_silence
from modules.data.recordings import Recording
from modules.errors import AudioError, DataError
from modules.files import sha256_of, write_json

MIN_SECONDS = 0.3
MANIFEST = ".resample.json"
_SILENT_PEAK = 1e-4  # -80 dB: three steps of 16 bits
_TRIM_DB = 40.0
_WORK_PER_FLUSH = 20  # the manifest is written as often as costs a twentieth of the time


def make_clip(recording: Recording) -> tuple[int, int, str]:
    """Writes the clip of one recording: trimmed, at the target rate, 16 bits.

    Returns:
        The clip's size in bytes, mtime in ns and SHA-256.

    Raises:
        AudioError: the source cannot be read, is silent, or is shorter than 0.3 s; the text says which.
    """
    settings = recording.settings
    wav, rate = read(recording.source)
    _refuse_short(len(wav) / rate, "")
    if np.abs(wav).max() < _SILENT_PEAK:
        raise AudioError(f"{recording.source}: is silent")
    wav = trim_silence(wav, _TRIM_DB)
    _refuse_short(len(wav) / rate, " without the silence at its ends")
    peak = float(np.abs(wav).max())
    if peak > 1:
        wav = wav * (0.98 / peak)
    wav = resample(np.ascontiguousarray(wav, dtype=np.float32), rate, settings.rate)
    if settings.normalise:
        wav = peak_normalise(wav)
    write(recording.target, to_int16(wav), settings.rate)
    stat = recording.target.stat()
    return stat.st_size, stat.st_mtime_ns, sha256_of(recording.target)


class Manifest:
    """Which clips were made from what; kept in the output folder and written as work goes on.

    An entry without an output was being made when it was written: after a crash its file is ours and is made again.

    Args:
        out_dir: folder of the clips.
    """

    def __init__(self, out_dir: Path) -> None:
        self._out_dir = out_dir
        self._path = out_dir / MANIFEST
        self._entries: dict[str, dict] = {}
        self._next_flush = 0.0
        if self._path.is_file():
            try:
                self._entries = json.loads(self._path.read_text("utf-8"))
                if not isinstance(self._entries, dict) or not all(map(_is_entry, self._entries.values())):
                    raise ValueError("not a list of clips")
            except (ValueError, OSError) as error:
                raise DataError(f"{self._path}: damaged ({error}). Delete it and use --overwrite.") from None

    def state_of(self, recording: Recording) -> str:
        """ "new", "done", or "foreign": at the clip's place lies a file that resample.py did not write as it is now."""
        entry = self._entries.get(self._key(recording))
        if not recording.target.exists():
            return "new"
        if entry is None:
            return "foreign"
        if entry.get("output") is None:
            return "new"
        size, mtime_ns, digest = entry["output"]
        stat = recording.target.stat()
        if stat.st_size != size or (stat.st_mtime_ns != mtime_ns and sha256_of(recording.target) != digest):
            return "foreign"  # a copy of our clip has another time but our content
        return "done" if entry["made_from"] == _origin(recording) else "new"

    def begin(self, recordings: list[Recording]) -> None:
        """Writes down what is about to be made."""
        for recording in recordings:
            self._entries[self._key(recording)] = {"made_from": _origin(recording), "output": None}
        if recordings:
            self.flush()

    def finish(self, recording: Recording, output: tuple[int, int, str]) -> None:
        """Notes a finished clip; on disk at once, or within about a second where there are many thousands."""
        self._entries[self._key(recording)]["output"] = list(output)
        if time.monotonic() > self._next_flush:
            self.flush()

    def orphans(self, recordings: list[Recording]) -> list[Path]:
        """Clips of ours that exist although none of `recordings` would become them."""
        wanted = {self._key(recording) for recording in recordings}
        mine = (key for key, entry in self._entries.items() if entry["output"] and key not in wanted)
        return [path for path in (self._out_dir / key for key in mine) if path.exists()]

    def flush(self) -> None:
        """Writes the manifest.

        Raises:
            DataError: the output folder cannot be made or written.
        """
        started = time.monotonic()
        try:
            write_json(self._path, self._entries, indent=None)
        except OSError as error:
            raise DataError(f"{self._out_dir}: clips cannot be written there ({error.strerror})") from None
        done = time.monotonic()
        self._next_flush = done + _WORK_PER_FLUSH * (done - started)

    def _key(self, recording: Recording) -> str:
        return recording.target.relative_to(self._out_dir).as_posix()


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or "made_from" not in entry:
        return False
    output = entry.get("output")
    return output is None or (isinstance(output, list) and len(output) == 3)


def _origin(recording: Recording) -> dict:
    origin = {"source": recording.name, **asdict(recording.settings)}
    try:
        stat = recording.source.stat()
    except OSError:  # a broken link, say; reading it gives the message
        return origin
    return {**origin, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _refuse_short(seconds: float, how: str) -> None:
    if seconds < MIN_SECONDS:
        raise AudioError(f"is shorter than {MIN_SECONDS} s{how} ({seconds:.2f} s)")
