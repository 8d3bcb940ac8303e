"""The units of a speaker's whole data set, as both kinds of training want them."""

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from modules.data.clips import COMMAND, clips_with_units, report_orphans
from modules.errors import FAILURES, DataError, reason_of
from modules.text import printable

logger = logging.getLogger(__name__)


def speakers_with_units(root: Path, names: list[str]) -> list[str]:
    """The speakers with units in `root/SPEAKER/`; the others, and units whose clips are gone, are warned about."""
    report_orphans(root)
    found = [name for name in names if clips_with_units(root / name)]
    if not found:
        listed = printable(", ".join(names)) or "any speaker"
        raise DataError(f"{root}: holds no units (*.wav.soft.pt) of {listed}. Make them with: {COMMAND}")
    if missing := [name for name in names if name not in found]:
        logger.warning("no units of %s: left out. Make them with: %s", ", ".join(missing), COMMAND)
    return found


def encoder_of(folders: Iterable[Path]) -> str:
    """The encoder that made the first units in some speakers' folders; "" where it is not known."""
    from modules.data.feature_files import read_sidecar

    for clip in (clip for folder in folders for clip in clips_with_units(folder)):
        if name := read_sidecar(clip).get("features", {}).get("units", {}).get("encoder"):
            return str(name).partition(":")[0]
    return ""


def read_speaker(folder: Path, width: int | None = None, encoder: str | None = None) -> tuple[np.ndarray, int]:
    """All units of one speaker, (N, D) float32 clip after clip by name, and how many clips could not be used.

    `width` None takes that of the first clip; units that are known to come from another `encoder` are refused. Where no
    clip can be used, N is 0.
    """
    from modules.data.features import load_units  # here: what needs no torch is refused before it is loaded

    found, n_skipped = [], 0
    clips = clips_with_units(folder)
    for clip in tqdm(clips, desc=f"reading {folder.name}", unit="file", dynamic_ncols=True, leave=False, delay=1):
        try:
            units = load_units(clip, encoder)
        except FAILURES as error:
            logger.warning("%s", error if isinstance(error, DataError) else f"{clip}: {reason_of(error, clip)}")
            n_skipped += 1
            continue
        width = width or units.shape[1]
        if units.shape[1] != width:
            raise DataError(
                f"{clip}.soft.pt: units are {units.shape[1]} wide, but {width} is expected: they come from another "
                f"encoder. Make all units again with: {COMMAND}"
            )
        found.append(units)
    if not found:
        logger.warning("%s: holds no usable units, left out. Make them with: %s", folder, COMMAND)
    return np.concatenate(found) if found else np.zeros((0, width or 0), np.float32), n_skipped
