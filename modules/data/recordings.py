"""Recordings and the clips that they become: which there are, what is done already, and the conversion of one.

A manifest remembers from which source and with which settings each clip was made, so that a second run does only what
is new or changed, and never touches a file that somebody else wrote. numpy only: spawned workers start fast.
"""

import hashlib
import json
import logging
import os
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modules.audio.io import AUDIO_SUFFIXES, read, resample, write
from modules.audio.loudness import peak_normalise, trim_silence
from modules.errors import AudioError, DataError
from modules.files import sha256_of, write_json

logger = logging.getLogger(__name__)

MIN_SECONDS = 0.3
_SILENT_PEAK = 1e-4  # -80 dB: three steps of 16 bits
_WORK_PER_FLUSH = 20  # the manifest is written as often as costs a twentieth of the time
_LONGEST_NAME = 200  # bytes; file systems allow 255, and features add suffixes to a clip's name


@dataclass(frozen=True)
class Recording:
    """One source and the clip that it becomes."""

    source: Path
    target: Path
    name: str  # of the source within the input folder
    rate: int  # Hz, of the clip
    normalise: bool  # whether the clip is brought to full level


def find_recordings(in_dir: Path, out_dir: Path, rate: int, normalise: bool) -> tuple[list[Recording], dict[Path, str]]:
    """All audio below `in_dir/SPEAKER/`, sorted, and the reason for each that no clip can be named after.

    Files in sub-folders become `sub_file.wav` beside the others. What else lies around is logged.
    """
    expected = f"Expected {in_dir}/SPEAKER/recording.wav (one folder for each voice)."
    if not in_dir.is_dir():
        raise DataError(f"{in_dir}: no such folder. {expected}")
    _refuse_nested(in_dir, out_dir)
    recordings, misnamed, n_ignored = [], {}, 0
    for entry in sorted(path for path in in_dir.iterdir() if not path.name.startswith(".")):
        if not entry.is_dir() and _is_audio(entry):
            logger.warning("%s: lies outside any speaker folder, left out. Move it to %s/SPEAKER/", entry, in_dir)
        if not entry.is_dir():
            n_ignored += not _is_audio(entry)
            continue
        files = sorted(_files_below(entry))
        sources = [path for path in files if _is_audio(path)]
        n_ignored += len(files) - len(sources)
        if not sources:
            logger.warning("%s: speaker folder without audio", entry)
        for source in sources:
            if _is_misnamed(source):
                misnamed[source] = "its name is not valid Unicode or has a line break"
                logger.warning("%a: %s, skipped. Rename it.", str(source), misnamed[source])
                continue
            target = out_dir / entry.name / _clip_name(source.relative_to(entry))
            recordings.append(Recording(source, target, source.relative_to(in_dir).as_posix(), rate, normalise))
    if n_ignored:
        logger.info("%d files that are not audio were left out", n_ignored)
    if not recordings and not misnamed:
        raise DataError(f"{in_dir}: no recordings found. {expected}")
    _refuse_collisions(recordings)
    return recordings, misnamed


def make_clip(recording: Recording) -> tuple[int, int, str]:
    """Writes the clip of one recording (trimmed, at its rate, 16 bits); returns its size, mtime in ns and SHA-256."""
    wav, rate = read(recording.source)
    _refuse_short(len(wav) / rate, "")
    if np.abs(wav).max() < _SILENT_PEAK:
        raise AudioError(f"{recording.source}: is silent")
    wav = trim_silence(wav)
    _refuse_short(len(wav) / rate, " without the silence at its ends")
    peak = float(np.abs(wav).max())
    if peak > 1:
        wav = wav * (0.98 / peak)
    wav = resample(np.ascontiguousarray(wav, dtype=np.float32), rate, recording.rate)
    if recording.normalise:
        wav = peak_normalise(wav)
    write(recording.target, wav, recording.rate)
    stat = recording.target.stat()
    return stat.st_size, stat.st_mtime_ns, sha256_of(recording.target)


def _refuse_short(seconds: float, how: str) -> None:
    if seconds < MIN_SECONDS:
        raise AudioError(f"is shorter than {MIN_SECONDS} s{how} ({seconds:.2f} s)")


class Manifest:
    """Which clips were made from what; kept in the output folder and written as work goes on.

    An entry without an output was being made when it was written: after a crash its file is ours and is made again.
    """

    def __init__(self, out_dir: Path) -> None:
        self._out_dir, self._path = out_dir, out_dir / ".resample.json"
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
        if not recording.target.exists() or (entry and entry.get("output") is None):
            return "new"
        if entry is None:
            return "foreign"
        size, mtime_ns, digest = entry["output"]
        stat = recording.target.stat()
        if stat.st_size != size or (stat.st_mtime_ns != mtime_ns and sha256_of(recording.target) != digest):
            return "foreign"  # a copy of our clip has another time but our content
        return "done" if entry["made_from"] == _origin(recording) else "new"

    def begin(self, recordings: list[Recording]) -> None:
        """Writes down what is about to be made."""
        self._entries |= {self._key(entry): {"made_from": _origin(entry), "output": None} for entry in recordings}
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
        return [path for path in map(self._out_dir.joinpath, mine) if path.exists()]

    def flush(self) -> None:
        """Writes the manifest; a DataError where the output folder cannot be made or written."""
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
    output = entry.get("output") if isinstance(entry, dict) and "made_from" in entry else "not an entry"
    return output is None or (isinstance(output, list) and len(output) == 3)


def _origin(recording: Recording) -> dict:
    origin = {"source": recording.name, "rate": recording.rate, "normalise": recording.normalise}
    try:
        stat = recording.source.stat()
    except OSError:  # a broken link, say; reading it gives the message
        return origin
    return {**origin, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _files_below(folder: Path) -> Iterator[Path]:
    """All files below, hidden ones left out; linked folders are followed, each real folder is entered once."""
    entered = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and real not in entered)
        if real not in entered:
            yield from (Path(parent, name) for name in files if not name.startswith("."))
        entered.add(real)


def _clip_name(inside: Path) -> str:
    """`day 1/a.flac` -> `day 1_a.wav`; a name too long for the files made from it later is cut and gets a hash."""
    stem = "_".join(inside.with_suffix("").parts)
    if len(stem.encode()) + 4 <= _LONGEST_NAME:
        return f"{stem}.wav"
    digest = hashlib.sha256(stem.encode()).hexdigest()[:8]
    return f"{stem.encode()[: _LONGEST_NAME - 13].decode(errors='ignore')}-{digest}.wav"


def _is_misnamed(path: Path) -> bool:
    """Whether the name is not Unicode or has line breaks and the like: file lists are UTF-8 with one path a line."""
    return any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in str(path))


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in AUDIO_SUFFIXES


def _refuse_nested(in_dir: Path, out_dir: Path) -> None:
    """One folder inside the other would take clips for recordings, or replace recordings by clips."""
    inner, outer = in_dir.resolve(), out_dir.resolve()
    if inner == outer or inner in outer.parents or outer in inner.parents:
        raise DataError(f"{in_dir} and {out_dir}: recordings and clips need two folders, neither inside the other")


def _refuse_collisions(recordings: list[Recording]) -> None:
    """Windows and macOS do not tell `A.wav` from `a.wav`, nor composed from decomposed letters."""
    owners, clashes = {}, []
    for recording in recordings:
        key = unicodedata.normalize("NFC", str(recording.target)).casefold()
        if key in owners:
            clashes.append(f"{owners[key]} and {recording.source} would both become {recording.target}")
        owners.setdefault(key, recording.source)
    if clashes:
        more = f" ({len(clashes) - 3} more)" if len(clashes) > 3 else ""
        raise DataError(f"{'; '.join(clashes[:3])}{more}. Rename one of each; nothing was written.")
