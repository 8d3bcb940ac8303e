"""File lists, UTF-8 text with one path a line: which clips there are, and which are kept for validation."""

import logging
import random
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from modules.audio.io import probe
from modules.errors import AudioError, DataError
from modules.files import write_text

logger = logging.getLogger(__name__)

MIN_SECONDS = 0.3


def scan(source_dir: Path) -> dict[str, dict[Path, float]]:
    """Speaker -> clip -> seconds of all `source_dir/SPEAKER/*.wav`, sorted; clips that cannot be used are logged."""
    expected = f"Expected {source_dir}/SPEAKER/clip.wav. Make it with: python resample.py"
    if not source_dir.is_dir():
        raise DataError(f"{source_dir}: no such folder. {expected}")
    found: dict[str, dict[Path, float]] = {}
    for folder in sorted(path for path in source_dir.iterdir() if path.is_dir() and not path.name.startswith(".")):
        paths = [path for path in folder.iterdir() if path.suffix.lower() == ".wav" and not path.name.startswith(".")]
        clips = {}
        for path in sorted(paths):
            if "|" in str(path) or "\n" in str(path):
                raise DataError(f"{path}: a file list cannot hold a name with '|' or a line break. Rename it.")
            try:
                length = probe(path).seconds
            except AudioError as error:
                logger.warning("%s, left out", error)
                continue
            if length < MIN_SECONDS:
                logger.warning("%s: is shorter than %s s (%.2f s), left out", path, MIN_SECONDS, length)
                continue
            clips[path] = length
        if paths:
            found[folder.name] = clips
    if not found:
        raise DataError(f"{source_dir}: holds no clips. {expected}")
    return found


def split_clips(clips: dict[str, Collection[Path]], seed: int) -> tuple[list[Path], list[Path]]:
    """Training and validation clips, both shuffled, the same for the same seed.

    Each speaker gives 2 clips to validation where it has at least 10, otherwise 1, whatever the other speakers are.
    """
    poor = [f"{speaker} ({len(paths)})" for speaker, paths in clips.items() if len(paths) < 2]
    if poor:
        raise DataError(
            f"too few usable clips: {', '.join(poor)}. Each speaker needs at least 2, one of them for validation; "
            "add recordings or remove the folder."
        )
    train, validation = [], []
    for speaker, paths in clips.items():
        shuffled = sorted(paths)
        random.Random(f"{seed} {speaker}").shuffle(shuffled)
        n_validation = 2 if len(shuffled) >= 10 else 1
        validation += shuffled[:n_validation]
        train += shuffled[n_validation:]
    for paths in (train, validation):
        random.Random(seed).shuffle(paths)
    return train, validation


def write_list(path: Path, clips: list[Path]) -> None:
    """Writes a list with forward slashes on every platform."""
    write_text(path, "".join(clip.as_posix() + "\n" for clip in clips))


def read_list(path: Path) -> list[Path]:
    """The clips of a list; blank lines and anything behind a `|` are left out, backslashes are understood."""
    command = "python preprocess_flist_config.py"
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Make it with: {command}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text. Save it as UTF-8, or run {command}") from None
    names = [line.split("|")[0].strip().replace("\\", "/") for line in lines]
    clips = [Path(name) for name in names if name]
    if not clips:
        raise DataError(f"{path}: lists no clips. Make it with: {command}")
    return clips


def speaker_of(clip: Path) -> str:
    """The speaker of a clip: the name of its folder."""
    return PurePosixPath(str(clip).replace("\\", "/")).parent.name
