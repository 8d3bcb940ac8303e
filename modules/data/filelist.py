"""File lists, UTF-8 text with one path a line: which clips there are, and which are kept for validation."""

import logging
import os
import random
from collections import Counter
from pathlib import Path, PurePosixPath

from modules.audio.io import AUDIO_SUFFIXES, probe
from modules.errors import FAILURES, AudioError, DataError, UsageError, reason_of
from modules.files import read_bytes, write_text
from modules.text import listing, printable

logger = logging.getLogger(__name__)

MIN_SECONDS = 0.3
LARGEST_SHARE = 0.25  # of a speaker's seconds that go to validation, where its clips allow


def scan(source_dir: Path) -> tuple[dict[str, dict[Path, float]], int]:
    """Speaker -> clip -> seconds of all `source_dir/SPEAKER/*.wav`, sorted, and how many things were left out; each of
    these is logged with the reason."""
    expected = f"Expected {source_dir}/SPEAKER/clip.wav. Make it with: python resample.py"
    if not source_dir.is_dir():
        raise DataError(f"{source_dir}: no such folder. {expected}")
    found: dict[str, dict[Path, float]] = {}
    left_out = []
    for folder in _visible(source_dir, left_out):
        if not folder.is_dir():
            if folder.suffix.lower() in AUDIO_SUFFIXES or folder.is_symlink():
                left_out.append(f"{folder}: lies outside any speaker folder. Move it to {source_dir}/SPEAKER/")
            continue
        files = _visible(folder, left_out)
        others = [path.name for path in files if path.suffix.lower() in AUDIO_SUFFIXES - {".wav"}]
        if others:
            text = f"{folder}: {len(others)} recordings that are no .wav ({', '.join(others[:3])})"
            left_out.append(f"{text}. Put them in dataset_raw/{folder.name}/ and run: python resample.py")
        for inner in (path for path in files if path.is_dir() and path.suffix.lower() != ".wav"):
            if n_inside := sum(path.suffix.lower() in AUDIO_SUFFIXES for path in inner.rglob("[!.]*")):
                left_out.append(
                    f"{inner}: holds {n_inside} recordings, but clips lie in {folder}/ itself. Move them there"
                )
        paths = [path for path in files if path.suffix.lower() == ".wav"]
        clips = {}
        for path in paths:
            try:
                clips[path] = _usable_seconds(path)
            except FAILURES as error:
                left_out.append(f"{path}: {reason_of(error, path)}")
        if paths:
            found[folder.name] = clips
    for text in left_out:
        logger.warning("left out: %s", printable(text, None))
    if not found:
        raise DataError(f"{source_dir}: holds no clips. {expected}")
    _refuse_equal_stems(found)
    return found, len(left_out)


def _visible(folder: Path, left_out: list[str]) -> list[Path]:
    """What lies in a folder, sorted, without hidden things."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        left_out.append(f"{folder}: {reason_of(error, folder)}")
        return []


def _usable_seconds(path: Path) -> float:
    name = path.as_posix()
    if wrong := [letter for letter in name if letter in "\n\r|\\" or "\ud800" <= letter <= "\udfff"]:
        raise DataError(f"a file list cannot hold a name with {printable(wrong[0])}. Rename it.")
    seconds = probe(path).seconds
    if seconds < MIN_SECONDS:
        raise AudioError(f"is shorter than {MIN_SECONDS} s ({seconds:.2f} s)")
    return seconds


def _refuse_equal_stems(found: dict[str, dict[Path, float]]) -> None:
    """`x.wav` and `x.WAV` would share one `x.spec.pt`."""
    for clips in found.values():
        owners: dict[Path, Path] = {}
        for path in clips:
            if (other := owners.setdefault(path.with_suffix(""), path)) != path:
                raise DataError(f"{other} and {path}: their features would have one name. Rename one of them.")


def split_clips(clips: dict[str, dict[Path, float]], seed: int) -> tuple[list[Path], list[Path]]:
    """Training and validation clips, both shuffled, the same for the same seed.

    Each speaker gives 2 clips to validation where it has at least 10, otherwise 1, whatever the other speakers are;
    such that they are at most a quarter of its seconds, or else the shortest clip. Then it is said how much that is.
    """
    poor = [f"{speaker} ({len(paths)})" for speaker, paths in clips.items() if len(paths) < 2]
    if poor:
        raise DataError(
            f"too few usable clips: {', '.join(poor)}. Each speaker needs at least 2, one of them for validation; "
            "add recordings, cut a long one, or remove the folder."
        )
    train, validation = [], []
    for speaker, seconds in clips.items():
        shuffled = sorted(seconds)
        random.Random(f"{seed} {speaker}").shuffle(shuffled)
        budget = LARGEST_SHARE * sum(seconds.values())
        kept: list[Path] = []
        for path in shuffled:
            if len(kept) < (2 if len(shuffled) >= 10 else 1) and seconds[path] <= budget:
                kept.append(path)
                budget -= seconds[path]
        if not kept:
            kept = [min(shuffled, key=lambda path: seconds[path])]
            text = "%s: %.1f of its %.1f s are kept for validation, as it has only %d clips; cut long ones or add some"
            logger.warning(text, speaker, seconds[kept[0]], sum(seconds.values()), len(shuffled))
        validation += kept
        train += [path for path in shuffled if path not in kept]
    for paths in (train, validation):
        random.Random(seed).shuffle(paths)
    return train, validation


def write_list(path: Path, clips: list[Path]) -> None:
    """Writes a list with forward slashes on every platform."""
    write_text(path, "".join(clip.as_posix() + "\n" for clip in clips))


def check_lists(*paths: Path) -> None:
    """Refuses to write file lists over each other or over a file that is none."""
    for number, path in enumerate(paths):
        if any(path.resolve() == other.resolve() for other in paths[:number]):
            raise UsageError(f"{path}: is the name of two lists; give two names")
        if os.path.lexists(path) and not _is_list(path):
            raise UsageError(
                f"{path}: is there and is no file list, so it is not replaced; remove it or give another name"
            )


def _is_list(path: Path) -> bool:
    """Whether a file can be read and holds nothing but names of clips."""
    try:
        names = _names(path)
    except (OSError, ValueError):
        return False
    return all(name.lower().endswith(".wav") for name in names)


def read_list(path: Path) -> list[Path]:
    """The clips of a list; blank lines and anything behind a `|` are left out, backslashes are understood."""
    command = "python preprocess_flist_config.py"
    try:
        names = _names(path)
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text. Save it as UTF-8, or run {command}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise DataError(f"{path}: {reason_of(error, path)}. Make it with: {command}") from None
    if not names:
        raise DataError(f"{path}: lists no clips. Make it with: {command}")
    return [Path(name) for name in names]


def repeated_clips(path: Path) -> list[Path]:
    """The clips that a list holds more than once, absolute and sorted."""
    counts = Counter(clip.absolute() for clip in read_list(path))
    return sorted(clip for clip, count in counts.items() if count > 1)


def shared_clips(train_list: Path, val_list: Path) -> list[Path]:
    """The clips that both lists hold, absolute and sorted."""
    return sorted(set.intersection(*({clip.absolute() for clip in read_list(path)} for path in (train_list, val_list))))


def report_repeats(train_list: Path, val_list: Path) -> None:
    """Warns of clips that both lists hold, or one of them twice."""
    for name in (train_list, val_list):
        if again := repeated_clips(name):
            text = "%s: lists %d clips more than once (%s). Remove the lines that are too many"
            logger.warning(text, name, len(again), listing([path.name for path in again], 3))
    if shared := shared_clips(train_list, val_list):
        text = (
            "%d clips are in both %s and %s (%s): validation would praise what is known by heart. Take them out of one"
        )
        logger.warning(text, len(shared), train_list, val_list, listing([path.name for path in shared], 3))


def _names(path: Path) -> list[str]:
    lines = read_bytes(path).decode("utf-8-sig").splitlines()
    return [name for line in lines if (name := line.split("|")[0].strip().replace("\\", "/"))]


def speaker_of(clip: Path) -> str:
    """The speaker of a clip: the name of its folder."""
    return PurePosixPath(str(clip).replace("\\", "/")).parent.name
