"""The units of a speaker's whole data set, as both kinds of training want them."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from modules.data.features import COMMAND, load_units
from modules.errors import DataError

logger = logging.getLogger(__name__)
_ENDING = ".soft.pt"


@dataclass(frozen=True)
class SpeakerUnits:
    """All units of one speaker.

    Args:
        units: (N, D) float32, clip after clip, sorted by file name.
        n_skipped: clips whose units could not be used; each was named in the log.
    """

    units: np.ndarray
    n_skipped: int


def clips_with_units(folder: Path) -> list[Path]:
    """The clips `folder/X.wav` that have units (`X.wav.soft.pt`) beside them, sorted; none where there is no folder."""
    found = [path for path in folder.glob("*" + _ENDING) if not path.name.startswith(".")]
    return sorted(path.with_name(path.name.removesuffix(_ENDING)) for path in found)


def read_speaker(folder: Path, width: int | None = None, encoder: str | None = None) -> SpeakerUnits:
    """Reads the units of one speaker; a clip that cannot be used is named in the log and left out.

    Args:
        folder: where the speaker's clips lie.
        width: D; None takes that of the first clip.
        encoder: its name, to refuse units that are known to come from another one.

    Raises:
        DataError: no units at all, or units of another width, which come from another encoder.
    """
    pieces, n_skipped = [], 0
    clips = clips_with_units(folder)
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
        pieces.append(units)
    if not pieces:
        raise DataError(f"{folder}: holds no usable units. Make them with: {COMMAND}")
    return SpeakerUnits(np.concatenate(pieces), n_skipped)
