"""Which recordings lie in the input folder, and which clip each of them becomes."""

import hashlib
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from modules.audio.io import AUDIO_SUFFIXES, UNREADABLE_SUFFIXES
from modules.errors import DataError

_LONGEST_NAME = 200  # bytes; file systems allow 255, and features add suffixes to a clip's name


@dataclass(frozen=True)
class ResampleSettings:
    """`rate` Hz of the clips; `normalise` brings each to full level."""

    rate: int
    normalise: bool


@dataclass(frozen=True)
class Recording:
    """One `source` (called `name` within the input folder) and the clip it becomes."""

    source: Path
    target: Path
    settings: ResampleSettings
    name: str


@dataclass
class Findings:
    """What lies in the input folder.

    Args:
        recordings: what can be tried.
        misnamed: audio whose name no file list can hold.
        loose: audio outside any speaker folder.
        ignored: files that are not audio.
        empty: speaker folders without any audio.
    """

    recordings: list[Recording] = field(default_factory=list)
    misnamed: list[Path] = field(default_factory=list)
    loose: list[Path] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)
    empty: list[Path] = field(default_factory=list)


def find_recordings(in_dir: Path, out_dir: Path, settings: ResampleSettings) -> Findings:
    """All audio below `in_dir/SPEAKER/`, sorted; files in sub-folders become `sub_file.wav` beside the others.

    Raises:
        DataError: no such folder, nothing in it, one folder inside the other, or two sources for one clip.
    """
    expected = f"Expected {in_dir}/SPEAKER/recording.wav (one folder for each voice)."
    if not in_dir.is_dir():
        raise DataError(f"{in_dir}: no such folder. {expected}")
    _refuse_nested(in_dir, out_dir)
    found = Findings()
    for entry in sorted(in_dir.iterdir()):
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            (found.loose if _is_audio(entry) else found.ignored).append(entry)
            continue
        sources = sorted(_files_below(entry))
        for source in sources:
            if not _is_audio(source):
                found.ignored.append(source)
            elif _is_misnamed(source):
                found.misnamed.append(source)
            else:
                target = out_dir / entry.name / _clip_name(source.relative_to(entry))
                name = source.relative_to(in_dir).as_posix()
                found.recordings.append(Recording(source, target, settings, name))
        if not any(_is_audio(source) for source in sources):
            found.empty.append(entry)
    if not found.recordings and not found.misnamed:
        raise DataError(f"{in_dir}: no recordings found. {expected}")
    _refuse_collisions(found.recordings)
    return found


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
    name = str(path)
    return any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name)


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in AUDIO_SUFFIXES | UNREADABLE_SUFFIXES


def _refuse_nested(in_dir: Path, out_dir: Path) -> None:
    """One folder inside the other would take clips for recordings, or replace recordings by clips."""
    inner, outer = in_dir.resolve(), out_dir.resolve()
    if inner == outer or inner in outer.parents or outer in inner.parents:
        raise DataError(f"{in_dir} and {out_dir}: recordings and clips need two folders, neither inside the other")


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
