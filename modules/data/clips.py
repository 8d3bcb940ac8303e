"""What a data set's folder holds: clips, the files of their features by name, and features whose clips are gone.

Nothing here opens a file, and nothing needs torch.
"""

import logging
import os
from pathlib import Path

from modules.errors import DataError, reason_of
from modules.text import printable

logger = logging.getLogger(__name__)

COMMAND = "python preprocess_hubert_f0.py"
_SIDECAR, _SPECTRUM = ".features.json", ".spec.pt"
_ENDINGS = {"units": ".soft.pt", "f0": ".f0.npy", "volume": ".vol.npy", "mel": ".mel.npy"}
_ENDINGS |= {"aug_mel": ".aug_mel.npy", "aug_volume": ".aug_vol.npy", "aug_shift": ".aug_shift.npy"}


def path_of(wav_path: Path, name: str) -> Path:
    """Where a file of features lies: one of the names that the docstring of `modules.data.features` lists."""
    return wav_path.with_suffix(_SPECTRUM) if name == "spec" else wav_path.with_name(wav_path.name + _ENDINGS[name])


def sidecar_of(wav_path: Path) -> Path:
    """Where it is said from which clip and with which settings the features were made."""
    return wav_path.with_name(wav_path.name + _SIDECAR)


def find_clips(folder: Path) -> tuple[list[Path], int]:
    """`folder/SPEAKER/X.wav`, sorted, whatever they are (links, folders), and how many folders could not be listed."""
    found, n_failed = [], 0
    for speaker in _speakers_in(folder):
        try:
            found += [path for path in _files_in(speaker) if _is_clip(path.name)]
        except OSError as error:
            logger.warning("%s: cannot be listed (%s), left out", speaker, reason_of(error, speaker))
            n_failed += 1
    if not found and not n_failed:
        state = "holds no SPEAKER/clip.wav" if folder.is_dir() else "no such folder"
        raise DataError(f"{folder}: {state}. Make it with: python resample.py")
    return found, n_failed


def clips_with_units(speaker: Path) -> list[Path]:
    """The clips in a speaker's folder that have units, sorted; of clips that are gone, units do not count."""
    try:
        paths = _files_in(speaker)
    except OSError:
        return []
    ending = _ENDINGS["units"]
    clips = [path.with_name(path.name.removesuffix(ending)) for path in paths if path.name.endswith(ending)]
    return [clip for clip in clips if os.path.lexists(clip)]


def orphans(folder: Path) -> list[Path]:
    """The clips that are gone, in the folders of all speakers, of which features are left."""
    return [clip for speaker in _speakers_in(folder) for clip in _gone(speaker)]


def report_orphans(folder: Path) -> None:
    """Warns once of features whose clips are gone, in the folders of all speakers."""
    if gone := orphans(folder):
        logger.warning(
            "%s: holds features of %d clips that are gone (%s). They are not used: delete them, or put the clips back",
            folder,
            len(gone),
            shorten([clip.relative_to(folder) for clip in gone]),
        )


def shorten(paths: list[Path]) -> str:
    """The first three of some paths, and how many more there are."""
    shown = ", ".join(printable(path.as_posix()) for path in paths[:3])
    return shown + (f", and {len(paths) - 3} more" if len(paths) > 3 else "")


def _speakers_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files_in(speaker: Path) -> list[Path]:
    return sorted(path for path in speaker.iterdir() if not path.name.startswith("."))


def _is_clip(name: str) -> bool:
    return name.lower().endswith(".wav")


def _gone(speaker: Path) -> list[Path]:
    try:
        names = {path.name for path in _files_in(speaker)}
    except OSError:  # whoever reads the clips says so
        return []
    stems = {name.rpartition(".")[0] for name in names if _is_clip(name)}
    gone = set()
    for name in names:
        clip = next((name.removesuffix(end) for end in (*_ENDINGS.values(), _SIDECAR) if name.endswith(end)), "")
        if _is_clip(clip) and clip not in names:
            gone.add(clip)
        elif name.endswith(_SPECTRUM) and name.removesuffix(_SPECTRUM) not in stems:
            gone.add(name.removesuffix(_SPECTRUM) + ".wav")
    return [speaker / clip for clip in sorted(gone)]
