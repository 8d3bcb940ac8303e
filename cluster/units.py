"""The units of a speaker's whole data set, as both kinds of training want them."""

import logging
from pathlib import Path

import numpy as np
from tqdm import tqdm

from modules.data.features import COMMAND, load_units
from modules.errors import DataError

logger = logging.getLogger(__name__)
_ENDING = ".soft.pt"


def speakers_with_units(root: Path, names: list[str]) -> list[str]:
    """The speakers with units in `root/SPEAKER/`; the others are warned about."""
    found = [name for name in names if _clips_with_units(root / name)]
    if not found:
        listed = ", ".join(names) or "any speaker"
        raise DataError(f"{root}: holds no units (*.wav{_ENDING}) of {listed}. Make them with: {COMMAND}")
    if missing := [name for name in names if name not in found]:
        logger.warning("no units of %s: left out. Make them with: %s", ", ".join(missing), COMMAND)
    return found


def read_speaker(folder: Path, width: int | None = None, encoder: str | None = None) -> tuple[np.ndarray, int]:
    """All units of one speaker, (N, D) float32 clip after clip by name, and how many clips could not be used.

    `width` None takes that of the first clip; units that are known to come from another `encoder` are refused.
    """
    found, n_skipped = [], 0
    clips = _clips_with_units(folder)
    for clip in tqdm(clips, desc=f"reading {folder.name}", unit="file", dynamic_ncols=True, leave=False, delay=1):
        try:
            units = load_units(clip, encoder)
        except DataError as error:
            logger.warning("%s", error)
            n_skipped += 1
            continue
        width = width or units.shape[1]
        if units.shape[1] != width:
            raise DataError(
                f"{clip}{_ENDING}: units are {units.shape[1]} wide, but {width} is expected: they come from another "
                f"encoder. Make all units again with: {COMMAND}"
            )
        found.append(units)
    if not found:
        raise DataError(f"{folder}: holds no usable units. Make them with: {COMMAND}")
    return np.concatenate(found), n_skipped


def _clips_with_units(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("*" + _ENDING) if not path.name.startswith(".")]
    return sorted(path.with_name(path.name.removesuffix(_ENDING)) for path in found)
