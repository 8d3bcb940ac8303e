"""Sounds that the doctor's tests look at, and meters that look at them."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from modules.audio.io import read

VOICES = Path(__file__).resolve().parent.parent / "samples/voices"


@cache
def voice(name: str, number: int = 1) -> tuple[np.ndarray, int]:
    """A take of one of the two voices of the samples, with its rate; not to be written to."""
    wav, rate = read(VOICES / name / f"{name}_{number:03}.flac")
    wav.flags.writeable = False
    return wav, rate


def measure(meter: Any, wav: np.ndarray, rate: int, block: int = 441000) -> Any:
    """What a meter finds in a sound that comes in blocks of so many samples."""
    made = meter(rate)
    for start in range(0, len(wav), block):
        made.push(wav[start : start + block])
    return made.finish()


def measure_voice(meter: Any, name: str) -> dict[Path, Any]:
    """The same of all takes of one of the two voices."""
    return {path: measure(meter, *read(path)) for path in sorted((VOICES / name).glob("*.flac"))}
