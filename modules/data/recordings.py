"""Recordings and the clips that they become: which there are, and the conversion of one.

Which clips are done already is for `modules/data/manifest.py`. numpy only: spawned workers start fast.
"""

import codecs
import logging
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from modules.audio.cuts import TakeMeter
from modules.audio.decoding import open_sound
from modules.audio.io import AUDIO_SUFFIXES, StreamWriter, probe
from modules.audio.loudness import TRIM_HOP, loud_range
from modules.audio.mono import MonoFile
from modules.audio.slicer import RmsMeter
from modules.data.takes import Made, clip_name, is_long, output_of, write_clips
from modules.errors import FAILURES, AudioError, DataError, reason_of
from modules.parallel import watch
from modules.text import printable

logger = logging.getLogger(__name__)

MIN_SECONDS = 0.3
_SILENT_PEAK = 1e-4  # -80 dB: three steps of 16 bits
_LARGEST_OFFSET = 0.005  # of the mean from zero, as a share of the peak; trimming would take 0.01 for sound
_LONG_TAKE = 90  # seconds
_BLOCK_SECONDS = 10.0
_LONGEST_KEPT = 300  # seconds of a recording that are kept in memory
_NOT_LISTABLE = "\\|"  # file lists have "/" for the one, and end a path at the other
_OTHER_NAMES = ("thumbs.db", "desktop.ini")
_OTHER_SUFFIXES = frozenset(
    ".txt .md .tsv .csv .json .xml .html .htm .pdf .doc .docx .rtf .log .ini .yaml .yml .py .cue .m3u .m3u8 .pls .lrc "
    ".srt .ass .lab .textgrid .jpg .jpeg .png .gif .bmp .webp .heic .tif .tiff .svg .ico .mid .midi .nfo .url .lnk "
    ".asd .pkf .sfk .reapeaks .rpp .sesx .aup .aup3 .npy .pt .pth".split()
)


@dataclass(frozen=True)
class Recording:
    """One source and the clip that it becomes, or the clips where it is long."""

    source: Path
    target: Path  # of the clip; clips of a long take get numbers
    name: str  # of the source within the input folder
    rate: int  # Hz, of the clip
    normalise: bool  # whether the clip is brought to full level
    lengths: tuple[float, float] | None = None  # seconds of the shortest and the longest clip of a long take, if cut


def find_recordings(
    in_dir: Path, out_dir: Path, rate: int, normalise: bool, lengths: tuple[float, float] | None = None
) -> tuple[list[Recording], dict[Path, str]]:
    """All audio below `in_dir/SPEAKER/`, sorted, and the reason for each path that cannot be used, which is logged.

    Files in sub-folders become `sub_file.wav` beside the others. What is obviously no recording is counted.
    """
    expected = f"Expected {in_dir}/SPEAKER/recording.wav (one folder for each voice)."
    if not in_dir.is_dir():
        raise DataError(f"{in_dir}: no such folder. {expected}")
    _refuse_nested(in_dir, out_dir)
    recordings, skipped, n_ignored, voices = [], {}, 0, {}
    for entry in sorted(path for path in in_dir.iterdir() if not path.name.startswith(".")):
        if not entry.is_dir() and entry.suffix.lower() in AUDIO_SUFFIXES:
            logger.warning("%s: lies outside any speaker folder, left out. Move it to %s/SPEAKER/", entry, in_dir)
        elif not entry.is_dir():
            n_ignored += 1
        elif set(_NOT_LISTABLE) & set(entry.name):
            skipped[entry] = "its name has a backslash or |, which no file list can hold. Rename it."
        else:
            if (twin := voices.setdefault(entry.resolve(), entry)) != entry:
                text = "%s and %s are one folder: both voices would learn the same. Remove the link"
                logger.warning(text, twin, entry)
            sources, reasons, n_others = _sources_below(entry)
            n_ignored += n_others
            skipped |= reasons
            if not sources and not reasons:
                logger.warning("%s: speaker folder without audio", entry)
            for source in sources:
                target = out_dir / entry.name / _clip_name(source.relative_to(entry))
                name = source.relative_to(in_dir).as_posix()
                recordings.append(Recording(source, target, name, rate, normalise, lengths))
    for path, reason in skipped.items():
        logger.warning("%s: %s", printable(path, None), reason)
    if n_ignored:
        logger.info("%d files that are not audio were left out", n_ignored)
    if not recordings and not skipped:
        raise DataError(f"{in_dir}: no recordings found. {expected}")
    _refuse_collisions(recordings)
    _refuse_numbered(recordings)
    return recordings, skipped


def make_clip(recording: Recording) -> Made:
    """Writes the clip of one recording: trimmed, at its rate, 16 bits; of any length, in memory that does not grow.

    A long one becomes several, cut from the clip that it would have been, which wait at temporary names.
    """
    before = _stamp(recording.source)
    file = MonoFile(recording.source)
    take = _measure(file)
    seconds = (take.stop - take.start) / file.rate
    # Full level is known once all of it has been resampled; what is short is kept for that, the rest is made again.
    kept = list(_resampled(file, take, recording.rate)) if take.blocks else None
    meter = TakeMeter(recording.rate) if is_long(seconds, recording.lengths) else None
    scale = 1.0
    if recording.normalise or meter:
        peak = 0.0
        for block in kept or _resampled(file, take, recording.rate):
            peak = max(peak, _peak(block))
            if meter:
                meter.push(block)
        scale = 1 / peak if recording.normalise else 1.0
    blocks = ((block * scale).astype(np.float32) for block in kept or _resampled(file, take, recording.rate))

    def check() -> None:
        if _stamp(recording.source) != before:
            raise AudioError("has changed while it was read. Run this again when it is finished")

    total = take.n_samples / file.rate
    if meter:
        plan = meter.plan(*recording.lengths)
        clips, temporaries = write_clips(blocks, plan.segments, recording.target, recording.rate, check)
        return Made(clips, temporaries, total, file.notes, plan.n_audible)
    with StreamWriter(recording.target, recording.rate, "wav") as writer:
        for block in blocks:
            writer.write(block)
        check()
    notes = file.notes
    if seconds > _LONG_TAKE:
        advice = "training takes short parts of it at random. Clips of 5 to 15 s are best: --slice 5-15"
        notes += (f"becomes one clip of {seconds:.0f} s, and {advice} lets resample.py cut it at its pauses",)
    return Made({recording.target.name: output_of(recording.target)}, {}, total, notes)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        return (stat := path.stat()).st_size, stat.st_mtime_ns
    except OSError:  # reading it says why
        return None


@dataclass(frozen=True)
class _Take:
    """What a recording holds, found by reading it once."""

    n_samples: int  # of all of it
    start: int  # samples; where sound begins
    stop: int  # where it ends
    offset: np.float32  # constant part of the samples
    peak: float  # largest magnitude without it
    blocks: list[np.ndarray] | None  # all of it where it is short


def _measure(file: MonoFile) -> _Take:
    offset, kept = np.float32(0), []
    for _ in range(2):
        meter, total, low, high = RmsMeter(file.rate, TRIM_HOP), 0.0, np.inf, -np.inf
        for block in _blocks(file) if not offset else kept or _blocks(file):
            meter.push(block - offset if offset else block)
            total += float(block.sum(dtype=np.float64))
            low, high = min(low, float(block.min())), max(high, float(block.max()))
            if kept is not None and not offset:
                kept = [*kept, block] if meter.n_samples < _LONGEST_KEPT * file.rate else None
        mean = np.float32(total / meter.n_samples)
        if offset or abs(mean) < _LARGEST_OFFSET * max(-low, high):
            break
        offset = mean
    peak = float(max(high - offset, offset - low))
    _refuse_short(meter.n_samples / file.rate)
    if peak < _SILENT_PEAK:
        raise AudioError(f"{file.path}: is silent")
    start, stop = loud_range(meter.finish(), meter.n_samples)
    is_moment = stop - start < meter.n_samples / 10
    told = f"; all but the sound at {start / file.rate:.2f} s is far quieter: if that is a click, cut it out"
    _refuse_short((stop - start) / file.rate, " without the silence at its ends", told * is_moment)
    return _Take(meter.n_samples, start, stop, offset, peak, kept)


def _blocks(file: MonoFile) -> Iterable[np.ndarray]:
    seconds = file.n_samples and file.n_samples / file.rate
    return watch(file.blocks(_BLOCK_SECONDS), seconds, _BLOCK_SECONDS, file.path.name)


def _resampled(file: MonoFile, take: _Take, rate: int) -> Iterator[np.ndarray]:
    """Blocks of the trimmed recording at `rate`, soxr's high quality: the same samples as of the whole at once."""
    stream = soxr.ResampleStream(file.rate, rate, 1, dtype="float32", quality="HQ") if rate != file.rate else None
    gain, at = np.float32(0.98 / take.peak if take.peak > 1 else 1.0), 0
    for block in take.blocks or _blocks(file):
        part = block[max(0, take.start - at) : max(0, take.stop - at)]
        part = (part - take.offset if take.offset else part) * gain
        yield stream.resample_chunk(part) if stream else part
        at += len(block)
    if stream:
        yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _peak(block: np.ndarray) -> float:
    return float(np.abs(block).max(initial=0.0))


def _refuse_short(seconds: float, how: str = "", why: str = "") -> None:
    if seconds < MIN_SECONDS:
        raise AudioError(f"is shorter than {MIN_SECONDS} s{how} ({seconds:.2f} s{why})")


def _sources_below(folder: Path) -> tuple[list[Path], dict[Path, str], int]:
    """(recordings below, why other paths cannot be used, how many files are obviously no recordings)."""
    sources, reasons, n_others = [], {}, 0
    errors: list[OSError] = []
    for path in sorted(_files_below(folder, errors)):
        suffix = path.suffix.lower()
        if suffix in _OTHER_SUFFIXES or path.name.lower() in _OTHER_NAMES:
            n_others += 1
        elif _is_misnamed(path):
            reasons[path] = "its name is not valid Unicode or has a line break, skipped. Rename it."
        elif suffix in AUDIO_SUFFIXES:
            sources.append(path)
        else:  # a name that says nothing: what is inside counts
            try:
                open_sound(path)
                sources.append(path)
            except FAILURES as error:
                if _is_text(path):
                    n_others += 1
                else:
                    reasons[path] = reason_of(error, path)
    for error in errors:
        reasons[Path(error.filename)] = f"the folder cannot be read ({reason_of(error, error.filename)})"
    return sources, reasons, n_others


def _files_below(folder: Path, errors: list[OSError]) -> Iterator[Path]:
    """All files below, hidden ones left out; linked folders are followed, each real folder is entered once.

    So are empty folders that are named like recordings. Folders that cannot be read go to `errors`.
    """
    entered = set()
    for parent, folders, files in os.walk(folder, onerror=errors.append, followlinks=True):
        real = os.path.realpath(parent)
        inside = [name for name in folders if not name.startswith(".") and real not in entered]
        above = [name for name in inside if _holds(Path(parent, name), folder)]
        for name in above:
            logger.warning("%s: is a link to a folder above, which holds other voices, left out", Path(parent, name))
        folders[:] = sorted(set(inside) - set(above))
        if real not in entered:
            yield from (Path(parent, name) for name in files if not name.startswith("."))
            is_empty = not folders and not files and Path(parent) != folder
            if is_empty and Path(parent).suffix.lower() in AUDIO_SUFFIXES:
                yield Path(parent)
        entered.add(real)


def _holds(path: Path, folder: Path) -> bool:
    """Whether `folder` lies within what `path` leads to."""
    return path.is_symlink() and path.resolve() in folder.resolve().parents


def _is_text(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return "\0" not in codecs.getincrementaldecoder("utf-8")().decode(file.read(4096))
    except (OSError, UnicodeDecodeError):
        return False


def _clip_name(inside: Path) -> str:
    """`day 1/a.flac` -> `day 1_a.wav`."""
    return clip_name("_".join(inside.with_suffix("").parts).translate(dict.fromkeys(map(ord, _NOT_LISTABLE), "_")))


def _is_misnamed(path: Path) -> bool:
    """Whether the name is not Unicode or has line breaks and the like: file lists are UTF-8 with one path a line."""
    return any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in str(path))


def _refuse_nested(in_dir: Path, out_dir: Path) -> None:
    """One folder inside the other would take clips for recordings, or replace recordings by clips."""
    inner, outer = in_dir.resolve(), out_dir.resolve()
    if inner == outer or inner in outer.parents or outer in inner.parents:
        raise DataError(f"{in_dir} and {out_dir}: recordings and clips need two folders, neither inside the other")


def _refuse_collisions(recordings: list[Recording]) -> None:
    """Windows and macOS do not tell `A.wav` from `a.wav`, nor composed from decomposed letters."""
    owners, clashes = {}, []
    for recording in recordings:
        key = _same_name(recording.target)
        if key in owners:
            clashes.append(f"{owners[key]} and {recording.source} would both become {recording.target}")
        owners.setdefault(key, recording.source)
    _refuse(clashes, " (capitals, and how accents are stored, make no other name)")


def _refuse_numbered(recordings: list[Recording]) -> None:
    """`a.wav`, where it is long, becomes `a_001.wav` and so on; a recording `a_001.flac` would, too."""
    ending = "_000.wav"
    owners = {
        _same_name(entry.target.with_name(clip_name(entry.target.stem, ending)[: -len(ending)])): entry
        for entry in recordings
        if entry.lengths
    }
    lengths, clashes = {}, []
    for recording in recordings:
        match = re.fullmatch(r"(.+)_(\d{3,})", recording.target.stem, re.ASCII)
        owner = owners.get(_same_name(recording.target.with_name(match[1]))) if match else None
        if owner is not None:
            if owner not in lengths:
                lengths[owner] = _trimmed_seconds(owner)
            if is_long(lengths[owner], owner.lengths) and 0 < int(match[2]) <= lengths[owner]:  # clips are 1 s at least
                clashes.append(f"{owner.source}, which is cut, and {recording.source} would both become {match[0]}.wav")
    _refuse(clashes, ", or use --slice off")


def _trimmed_seconds(recording: Recording) -> float:
    """How long a recording is without silence at its ends; 0 where it cannot be read, which is said elsewhere."""
    try:
        if not is_long((whole := probe(recording.source)).seconds, recording.lengths):
            return whole.seconds
        take = _measure(file := MonoFile(recording.source))
        return (take.stop - take.start) / file.rate
    except FAILURES:
        return 0.0


def _same_name(path: Path) -> str:
    """Equal for names that Windows and macOS do not tell apart."""
    return unicodedata.normalize("NFC", str(path)).casefold()


def _refuse(clashes: list[str], advice: str) -> None:
    if clashes:
        more = f" ({len(clashes) - 3} more)" if len(clashes) > 3 else ""
        raise DataError(f"{'; '.join(clashes[:3])}{more}. Rename one of each{advice}. Nothing was written.")
