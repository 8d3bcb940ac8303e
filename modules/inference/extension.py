"""Range extension (`--extend_range`): phrases outside a voice's notes are sung inside them and moved back.

A phrase is what has pitch without a gap of 0.2 s: one breath, or less. So it is sung in one key, and the key
changes where nothing is heard but breath and consonants, which are not moved.

    asked for  A5 ...... C6     comfortable D3 to G5     sung 5 semitones lower, E5 ...... G5, and shifted up by 5
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from modules.audio.world_shift import shift_pitch
from modules.contracts import F0
from modules.errors import UsageError
from modules.f0.histogram import WARN_OUTSIDE, note_name
from modules.f0.voice_range import ranges_on
from modules.text import printable

MOST_SEMITONES = 36  # that a phrase is moved by
_PAUSE_SECONDS = 0.2  # without pitch, between two phrases
_MARGIN = 0.5  # semitones beyond the outermost notes: what is nearest to them


@dataclass(frozen=True)
class Comfort:
    """The notes that phrases are sung within, MIDI."""

    low: float
    high: float
    origin: str  # for people

    def __str__(self) -> str:
        return f"{note_name(self.low)}-{note_name(self.high)}, {self.origin}"


@dataclass(frozen=True)
class Extension:
    """How a chunk of N frames is sung."""

    shifts: np.ndarray  # (N,) whole semitones higher than asked for
    outside_seconds: float  # of phrases that are wider than the range and stay outside in part


def comfort_of(card: dict[str, Any], voices: dict[str, Any], speaker: str) -> Comfort:
    """What a voice's card says about a speaker: the measured range, else (`voices`) the notes of its training.

    Raises:
        UsageError: it says neither.
    """
    if (known := ranges_on(card).get(speaker)) is not None:
        return Comfort(*known.comfortable, f"measured {known.measured}")
    notes = voices.get(speaker)
    if notes is None or notes.range is None:
        raise UsageError(
            f"--extend_range: the model does not say which notes {printable(speaker)!r} sings. Measure them, once: "
            "python evaluate.py --range --card -m MODEL"
        )
    return Comfort(*notes.range, "the notes that it was trained on")


def plan_extension(curve: F0, transpose: float, comfort: Comfort, frame_rate: float) -> Extension | None:
    """How the phrases of a chunk are sung; None where all of them stay where they are."""
    shifts, outside = np.zeros(len(curve.f0), np.int64), 0
    voiced = (curve.uv > 0.5) & (curve.f0 > 0)
    notes = 69 + 12 * np.log2(np.where(voiced, curve.f0, 440.0) / 440.0) + transpose
    for whole, sung in find_phrases(voiced, max(1, round(_PAUSE_SECONDS * frame_rate))):
        heard = notes[sung][voiced[sung]]
        shifts[whole], share = choose_shift_into(heard, comfort)
        outside += round(share * len(heard)) if share > WARN_OUTSIDE else 0
    return Extension(shifts, outside / frame_rate) if shifts.any() or outside else None


def find_phrases(voiced: np.ndarray, pause: int) -> list[tuple[slice, slice]]:
    """The phrases in (N,) frames, divided by `pause` unvoiced frames and more: for each its frames up to the middle of
    the pauses beside it, which together are all N, and those from its first to its last voiced one."""
    at = np.flatnonzero(voiced)
    if not len(at):
        return []
    breaks = np.flatnonzero(np.diff(at) > pause)
    starts, ends = at[[0, *(breaks + 1)]], at[[*breaks, len(at) - 1]] + 1
    middles = [0, *((ends[:-1] + starts[1:]) // 2), len(voiced)]
    return [(slice(*whole), slice(*sung)) for whole, sung in zip(pairwise(middles), zip(starts, ends))]


def choose_shift_into(notes: np.ndarray, comfort: Comfort) -> tuple[int, float]:
    """Semitones by which a phrase of these notes (n,), MIDI, is to be sung higher, and the share of it outside then.

    0 where no more than 2 % of its frames lie outside, which single errors of a predictor do; else the least number
    that brings the rest inside, or, of a phrase that is wider than the range, as much of it as can be.
    """
    low, high = comfort.low - _MARGIN, comfort.high + _MARGIN
    shifts = sorted(range(-MOST_SEMITONES, MOST_SEMITONES + 1), key=abs)
    outside = {shift: float(np.mean((notes + shift < low) | (notes + shift > high))) for shift in shifts}
    enough = max(WARN_OUTSIDE, min(outside.values()))
    shift = next(shift for shift in shifts if outside[shift] <= enough)
    return shift, outside[shift]


def move_back(
    wav: np.ndarray, rate: int, curve: F0, hop_length: int, transpose: float, shifts: np.ndarray
) -> np.ndarray:
    """The sound (T,) of a chunk whose phrases were sung `shifts` (N,) semitones too high, at its own pitch: `curve`,
    `transpose` semitones higher, is what was asked for."""
    pitch = curve.f0 * (curve.uv > 0.5) * 2.0 ** ((transpose + shifts) / 12)
    return shift_pitch(wav, rate, pitch, hop_length, -shifts)
