"""Autotune: notes are moved towards those of a scale; vibrato, ornaments and slides stay as they were sung.

pitch ---> centre (median, low pass) ---> held notes ---> one shift for each, straight lines between them
"""

import re
from itertools import pairwise

import numpy as np

from modules.errors import UsageError

CONCERT_PITCH = 440.0  # Hz, of the A above middle C
CHROMATIC = "chromatic"
SCALES = {  # semitones above the first note
    CHROMATIC: tuple(range(12)),
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "harmonic minor": (0, 2, 3, 5, 7, 8, 11),
    "melodic minor": (0, 2, 3, 5, 7, 9, 11),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "locrian": (0, 1, 3, 5, 6, 8, 10),
    "pentatonic": (0, 2, 4, 7, 9),
    "minor pentatonic": (0, 3, 5, 7, 10),
    "blues": (0, 3, 5, 6, 7, 10),
    "whole tone": (0, 2, 4, 6, 8, 10),
}
SLIDE = 3.0  # semitones in a second: a centre that moves faster is on its way to another note
_LETTERS = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
_SIGNS = {"": 0, "#": 1, "♯": 1, "b": -1, "♭": -1}
_MEDIAN_SECONDS = 0.1  # single wrong frames do not count
_CENTRE_SECONDS = 0.4  # of a Hann window, whose mean takes vibrato from 4.5 Hz on off a curve
_SHORTEST_SECONDS = 0.08  # of a held note
_GAP_SECONDS = 0.05  # unvoiced for so long, a note goes on
_TRANSITION_SECONDS = 0.15  # of a Hann window over the shifts
_WANDERS = 0.3  # semitones between the quartiles of a centre, from which on it is a slow slide, not a note
_STAYS = 0.1  # semitones past the middle between two notes, up to which a note stays the same


def scale_notes(name: str) -> np.ndarray:
    """All MIDI notes of a scale such as "C major" or "chromatic", ascending; a UsageError lists the known ones."""
    text = " ".join(name.lower().split())
    match = re.fullmatch(r"(?:([a-g])([#♯b♭]?) )?(.+)", text)
    kind = match[3] if match else ""
    if kind not in SCALES or not (match[1] or kind == CHROMATIC):
        raise UsageError(
            f"--scale {name!r}: expected a note and a scale, such as 'C major' or 'F# minor'. Scales: "
            f"{', '.join(SCALES)}"
        )
    first = _LETTERS[match[1]] + _SIGNS[match[2]] if match[1] else 0
    wanted = {(first + step) % 12 for step in SCALES[kind]}
    return np.array([note for note in range(12, 145) if note % 12 in wanted], np.float64)


def note_shifts(hz: np.ndarray, hop_seconds: float, transpose: float, notes: np.ndarray, tuning: float) -> np.ndarray:
    """(N,) semitones that bring the middle of each held note onto the nearest of `notes`, without steps.

    Args:
        hz: (N,) of the song, 0 where unvoiced.
        transpose: semitones that the result lies above it.
        notes: MIDI numbers, ascending; 69 has `tuning` Hz.
    """
    shifts, known = np.zeros(len(hz)), np.zeros(len(hz), bool)
    with np.errstate(divide="ignore"):
        pitch = 69 + 12 * np.log2(hz.astype(np.float64) / tuning) + transpose
    for start, stop in _phrases(hz > 0, round(_GAP_SECONDS / hop_seconds)):
        frames = np.arange(start, stop)
        voiced = frames[hz[start:stop] > 0]
        for first, last, shift in _held_notes(np.interp(frames, voiced, pitch[voiced]), hop_seconds, notes):
            shifts[start + first : start + last] = shift
            known[start + first : start + last] = True
    if not known.any():
        return shifts
    frames = np.arange(len(hz))
    return _smooth(np.interp(frames, frames[known], shifts[known]), _TRANSITION_SECONDS / hop_seconds)


def _phrases(voiced: np.ndarray, longest_gap: int) -> list[tuple[int, int]]:
    """First and one past the last frame of what is sung without a pause."""
    frames = np.flatnonzero(voiced)
    parts = np.split(frames, np.flatnonzero(np.diff(frames) > longest_gap + 1) + 1)
    return [(int(part[0]), int(part[-1]) + 1) for part in parts if len(part)]


def _held_notes(pitch: np.ndarray, hop_seconds: float, notes: np.ndarray) -> list[tuple[int, int, float]]:
    """First and one past the last frame of the notes held in a phrase (n,) of MIDI numbers, and their shifts."""
    centre = _centre(pitch, hop_seconds)
    slope = np.gradient(centre, hop_seconds) if len(centre) > 1 else np.zeros(len(centre))
    is_steady, targets = np.abs(slope) < SLIDE, _follow(centre, notes)
    edges = [0, *(np.flatnonzero(np.diff(targets)) + 1).tolist(), len(pitch)]
    found = []
    for start, stop in pairwise(edges):
        steady = start + np.flatnonzero(is_steady[start:stop])
        if len(steady) * hop_seconds >= _SHORTEST_SECONDS:
            low, high = np.percentile(centre[steady], (25, 75))
            if high - low < _WANDERS:
                middle = np.median(pitch[steady])
                found.append((int(steady[0]), int(steady[-1]) + 1, float(_nearest(middle, notes) - middle)))
    return found


def _centre(pitch: np.ndarray, hop_seconds: float) -> np.ndarray:
    """A phrase (n,) without its vibrato."""
    half = round(_MEDIAN_SECONDS / hop_seconds / 2)
    padded = np.pad(pitch, half, mode="edge")
    calm = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1), axis=1)
    return _smooth(calm, _CENTRE_SECONDS / hop_seconds)


def _smooth(values: np.ndarray, width: float) -> np.ndarray:
    """Means (n,) under a Hann window of that many frames; at the ends of what there is."""
    half = max(1, round(width / 2))
    window = np.hanning(2 * half + 1)[1:-1]
    if len(values) < len(window):  # `same` is as long as the longer one
        window = window[(len(window) - len(values)) // 2 :][: len(values)]
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def _follow(centre: np.ndarray, notes: np.ndarray) -> np.ndarray:
    """The nearest note (n,) to each frame, which stays the same until another is clearly nearer."""
    nearest = _nearest(centre, notes)
    found, current = nearest.copy(), nearest[0]
    for index, (pitch, note) in enumerate(zip(centre, nearest)):
        if note != current and abs(pitch - current) - abs(pitch - note) > 2 * _STAYS:
            current = note
        found[index] = current
    return found


def _nearest(pitch: np.ndarray | float, notes: np.ndarray) -> np.ndarray:
    right = np.clip(np.searchsorted(notes, pitch), 1, len(notes) - 1)
    left = right - 1
    return np.where(pitch - notes[left] <= notes[right] - pitch, notes[left], notes[right])
