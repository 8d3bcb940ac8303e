"""VoiceRange: which notes a voice sings and which of them well, as it stands in the voice's model card.

`modules.evaluation.scale` measures it. Notes are whole MIDI numbers: A4 = 440 Hz = 69.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from modules.errors import DataError
from modules.f0.histogram import BINS_PER_SEMITONE, CENTRES, HIGHEST_MIDI, LOWEST_MIDI, PitchHistogram, note_name
from modules.text import printable
from modules.weights.about import RANGES

_EDGE = 0.25  # of a comfortable note: how often, as a histogram, one is sung that is only right


@dataclass(frozen=True)
class VoiceRange:
    """The notes of one speaker; each pair holds the lowest and the highest."""

    sings: tuple[int, int]  # is in tune
    comfortable: tuple[int, int]  # within those: as loud and as clear as the voice's best, nearly
    measured: str  # the day, "2026-12-01"
    predictors: tuple[str, ...]  # the F0 predictors that judged
    vowel: str  # what was sung

    def __str__(self) -> str:
        notes = {name: "-".join(map(note_name, getattr(self, name))) for name in ("comfortable", "sings")}
        how = f"measured {self.measured} by {', '.join(self.predictors)}"
        return f"comfortable {notes['comfortable']}, sings {notes['sings']} ({how})"

    def to_plain(self) -> dict[str, Any]:
        """Texts, numbers and lists for JSON and for checkpoints."""
        pairs = {"sings": list(self.sings), "comfortable": list(self.comfortable)}
        return {**pairs, "measured": self.measured, "predictors": list(self.predictors), "vowel": self.vowel}

    @classmethod
    def from_plain(cls, value: object, where: object) -> "VoiceRange":
        """The inverse of `to_plain`; a DataError that names the place `where` if it is no such range."""
        known = value if isinstance(value, dict) else {}
        sings, comfortable = (_pair(known.get(name)) for name in ("sings", "comfortable"))
        texts, predictors = (known.get("measured"), known.get("vowel")), known.get("predictors")
        is_whole = sings is not None and comfortable is not None and isinstance(predictors, list)
        if not is_whole or not all(isinstance(text, str) for text in (*texts, *predictors)):
            raise DataError(f"{where}: not a range of a voice. Measure it again: python evaluate.py --range --card")
        is_inside = sings[0] <= comfortable[0] and comfortable[1] <= sings[1]
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", texts[0]) or not is_inside:
            raise DataError(f"{where}: a range that cannot be. Measure it again: python evaluate.py --range --card")
        return cls(sings, comfortable, texts[0], tuple(printable(name, 20) for name in predictors), printable(texts[1]))

    def as_histogram(self) -> PitchHistogram:
        """Notes as a voice of this range might have been trained on: the middle of the comfortable ones most often.

        A triangle over the comfortable notes, which falls to a quarter at their ends; nothing beyond. It stands in for
        the histogram of a training that nobody kept.
        """
        low, high = self.comfortable
        reach = (high - low) / 2 + 1 / BINS_PER_SEMITONE
        shares = 1 - (1 - _EDGE) * np.abs(CENTRES - (low + high) / 2) / reach
        inside = np.abs(CENTRES - (low + high) / 2) <= (high - low) / 2
        return PitchHistogram(tuple(np.where(inside, np.round(1000 * shares), 0).astype(int).tolist()))


def ranges_on(card: Mapping[str, Any]) -> dict[str, VoiceRange]:
    """The measured ranges of the speakers on a voice's card; what is damaged there is left out."""
    known, found = card.get(RANGES), {}
    for speaker, plain in known.items() if isinstance(known, dict) else ():
        try:
            found[str(speaker)] = VoiceRange.from_plain(plain, speaker)
        except DataError:
            continue
    return found


def _pair(value: object) -> tuple[int, int] | None:
    if not isinstance(value, list) or len(value) != 2 or any(type(note) is not int for note in value):
        return None
    return (value[0], value[1]) if LOWEST_MIDI <= value[0] <= value[1] <= HIGHEST_MIDI else None
