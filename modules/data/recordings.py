"""From the user's recordings to training clips: what is found, what it becomes, and what is done already.

A manifest (`.resample.json` in the output folder) remembers from which source and with which settings each clip was
made, so that a second run does only what is new or changed, and never touches a file that somebody else wrote.
numpy only: spawned workers start fast.
"""

import json
import time
import unicodedata
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from modules.audio.io import AUDIO_SUFFIXES, UNREADABLE_SUFFIXES, read, resample, to_int16, write
from modules.audio.loudness import peak_normalise, trim_silence
from modules.errors import AudioError, DataError
from modules.files import write_json

MIN_SECONDS = 0.3
MANIFEST = ".resample.json"
_SILENT_PEAK = 1e-4  # -80 dB: three steps of 16 bits
_TRIM_DB = 40.0
_FLUSH_SECONDS = 2.0


@dataclass(frozen=True)
class ResampleSettings:
    """`rate` Hz of the clips; `normalise` brings each to full level."""

    rate: int
    normalise: bool


@dataclass(frozen=True)
class Recording:
    """One source and the clip it becomes."""

    source: Path
    target: Path
    settings: ResampleSettings


@dataclass
class Findings:
    """What lies in the input folder: usable recordings, audio outside any speaker folder, other files."""

    recordings: list[Recording] = field(default_factory=list)
    loose: list[Path] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)


def find_recordings(in_dir: Path, out_dir: Path, settings: ResampleSettings) -> Findings:
    """All audio below `in_dir/SPEAKER/`, sorted; files in sub-folders become `sub_file.wav` beside the others.

    Raises:
        DataError: no such folder, nothing in it, or two sources that would become one clip.
    """
    expected = f"Expected {in_dir}/SPEAKER/recording.wav (one folder for each voice)."
    if not in_dir.is_dir():
        raise DataError(f"{in_dir}: no such folder. {expected}")
    found = Findings()
    for entry in sorted(in_dir.iterdir()):
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            (found.loose if _is_audio(entry) else found.ignored).append(entry)
            continue
        for source in sorted(entry.rglob("*")):
            inside = source.relative_to(entry)
            if source.is_dir() or any(part.startswith(".") for part in inside.parts):
                continue
            if _is_audio(source):
                name = "_".join(inside.with_suffix(".wav").parts)
                found.recordings.append(Recording(source, out_dir / entry.name / name, settings))
            else:
                found.ignored.append(source)
    if not found.recordings:
        raise DataError(f"{in_dir}: no recordings found. {expected}")
    _refuse_collisions(found.recordings)
    return found


def make_clip(recording: Recording) -> tuple[int, int]:
    """Writes the clip of one recording: trimmed, at the target rate, 16 bits; its size in bytes and mtime in ns.

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
    return stat.st_size, stat.st_mtime_ns


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
        self._flushed = time.monotonic()
        if self._path.is_file():
            try:
                self._entries = dict(json.loads(self._path.read_text("utf-8")))
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
        stat = recording.target.stat()
        if entry["output"] != [stat.st_size, stat.st_mtime_ns]:
            return "foreign"
        return "done" if entry["made_from"] == _origin(recording) else "new"

    def begin(self, recordings: list[Recording]) -> None:
        """Writes down what is about to be made."""
        for recording in recordings:
            self._entries[self._key(recording)] = {"made_from": _origin(recording), "output": None}
        if recordings:
            self.flush()

    def finish(self, recording: Recording, output: tuple[int, int]) -> None:
        """Notes a finished clip; on disk within two seconds."""
        self._entries[self._key(recording)]["output"] = list(output)
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes the manifest; entries whose clip never came to be are left out once their file is absent."""
        write_json(self._path, self._entries, indent=None)
        self._flushed = time.monotonic()

    def _key(self, recording: Recording) -> str:
        return recording.target.relative_to(self._out_dir).as_posix()


def _origin(recording: Recording) -> dict:
    origin = {"source": "/".join(recording.source.parts[-4:]), **asdict(recording.settings)}
    try:
        stat = recording.source.stat()
    except OSError:  # a broken link, say; reading it gives the message
        return origin
    return {**origin, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in AUDIO_SUFFIXES | UNREADABLE_SUFFIXES


def _refuse_short(seconds: float, how: str) -> None:
    if seconds < MIN_SECONDS:
        raise AudioError(f"is shorter than {MIN_SECONDS} s{how} ({seconds:.2f} s)")


def _refuse_collisions(recordings: list[Recording]) -> None:
    """Windows and macOS do not tell `A.wav` from `a.wav`, nor composed from decomposed letters."""
    owners: dict[str, Path] = {}
    clashes = []
    for recording in recordings:
        key = unicodedata.normalize("NFC", str(recording.target)).casefold()
        if key in owners:
            clashes.append(f"{owners[key]} and {recording.source} would both become {recording.target}")
        owners.setdefault(key, recording.source)
    if clashes:
        more = f" ({len(clashes) - 3} more)" if len(clashes) > 3 else ""
        raise DataError(f"{'; '.join(clashes[:3])}{more}. Rename one of each; nothing was written.")
