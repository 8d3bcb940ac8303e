"""Which notes a voice or a song holds, and the transposition that brings a song into a voice's range.

Notes are MIDI numbers: A4 = 440 Hz = 69, one per semitone. `modules.data.pitch` keeps histograms on disk.
"""

from dataclasses import dataclass

import numpy as np

from modules.errors import DataError

LOWEST_MIDI = 24  # C1, 33 Hz
HIGHEST_MIDI = 108  # C8, 4186 Hz
BINS_PER_SEMITONE = 2
N_BINS = (HIGHEST_MIDI - LOWEST_MIDI) * BINS_PER_SEMITONE + 1
# Bin i holds what is nearest to this note: 24, 24.5, 25, ... 108.
CENTRES = LOWEST_MIDI + np.arange(N_BINS) / BINS_PER_SEMITONE

MAX_SHIFT = 24
WARN_OUTSIDE = 0.02
_MAX_COUNT = 2**40  # frames; more than 400 years of them
_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")

_RANGE_PERCENT = (1.0, 99.0)
_RANGE_MARGIN = 1.0  # semitones around these percentiles
# A note outside is named from this share of the song's frames on: single frames are mistakes of the predictor.
_NAMED_SHARE = 0.005
# How a count is spread over its neighbours: mostly a bell, and a little that decays so slowly that a song octaves away
# from the voice is still better the nearer it comes: a sixth of a nat a semitone.
_BELL_SEMITONES = 1.5
_TAIL_SEMITONES = 6.0
_TAIL_SHARE = 0.01
_TIE = 1e-9  # nats


@dataclass(frozen=True)
class PitchHistogram:
    """Voiced frames counted in bins of half a semitone."""

    counts: tuple[int, ...] = (0,) * N_BINS  # for the notes `CENTRES`; the outer bins hold what is beyond, too

    @classmethod
    def from_curve(cls, f0: np.ndarray, uv: np.ndarray) -> "PitchHistogram":
        """Of a curve (N,) Hz and its voicing (N,); what is unvoiced, not positive or not finite is not counted."""
        f0, uv = np.asarray(f0, np.float64), np.asarray(uv)
        voiced = f0[(uv > 0.5) & (f0 > 0) & np.isfinite(f0)]
        midi = 69 + 12 * np.log2(voiced / 440.0)
        bins = np.floor((midi - LOWEST_MIDI) * BINS_PER_SEMITONE + 0.5)
        bins = np.clip(bins, 0, N_BINS - 1).astype(np.int64)
        return cls(tuple(np.bincount(bins, minlength=N_BINS).tolist()))

    def __add__(self, other: "PitchHistogram") -> "PitchHistogram":
        return PitchHistogram(tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)))

    @property
    def frames(self) -> int:
        """Voiced frames counted."""
        return sum(self.counts)

    @property
    def median(self) -> float | None:
        """The middle note, or None without a voiced frame."""
        return self.percentile(50)

    def percentile(self, percent: float) -> float | None:
        """The note that `percent` (0 to 100) of the frames lie below, or None without a voiced frame.

        A bin counts as spread evenly over its half semitone: with all frames at note 60, the median is 60.0 and the
        percentiles 0 and 100 are 59.75 and 60.25.
        """
        if not self.frames:
            return None
        filled = np.flatnonzero(self.counts)
        counts = np.asarray(self.counts, np.float64)[filled]
        wanted = self.frames * percent / 100
        below = np.cumsum(counts) - counts
        index = max(int(np.searchsorted(below, wanted, side="right")) - 1, 0)
        inside = min((wanted - below[index]) / counts[index], 1.0)
        return float(CENTRES[filled[index]] + (inside - 0.5) / BINS_PER_SEMITONE)

    @property
    def range(self) -> tuple[float, float] | None:
        """The voice's lowest and highest note: the 1st and 99th percentile, a semitone wider; None without any."""
        low, high = (self.percentile(percent) for percent in _RANGE_PERCENT)
        return None if low is None or high is None else (low - _RANGE_MARGIN, high + _RANGE_MARGIN)

    def to_plain(self) -> dict[str, int | list[int]]:
        """Numbers and lists for JSON and for checkpoints."""
        return {"lowest_midi": LOWEST_MIDI, "bins_per_semitone": BINS_PER_SEMITONE, "counts": list(self.counts)}

    @classmethod
    def from_plain(cls, value: object, where: object) -> "PitchHistogram":
        """The inverse of `to_plain`; a DataError that names the place `where` if it is no such histogram."""
        if not isinstance(value, dict):
            raise DataError(f"{where}: holds a {type(value).__name__}, not a pitch histogram")
        for key, expected in (("lowest_midi", LOWEST_MIDI), ("bins_per_semitone", BINS_PER_SEMITONE)):
            if type(value.get(key)) is not int or value[key] != expected:
                raise DataError(f"{where}: not a pitch histogram that this version reads: {key} is not {expected}")
        counts = value.get("counts")
        if not isinstance(counts, list) or len(counts) != N_BINS:
            raise DataError(f"{where}: not a pitch histogram: counts is not a list of {N_BINS} numbers")
        if not all(type(count) is int and 0 <= count <= _MAX_COUNT for count in counts):
            raise DataError(f"{where}: not a pitch histogram: counts holds something that is no number of frames")
        return cls(tuple(counts))


@dataclass(frozen=True)
class ShiftChoice:
    """A transposition and what comes of it."""

    semitones: float  # added to the song's notes; a whole number where `choose_shift` chose it
    reason: str  # one sentence for the user
    outside: float = 0.0  # share of the song's voiced frames outside the voice's range after the shift
    warning: str | None = None  # names the notes outside, where they are more than 2 % of the song


def choose_shift(song: PitchHistogram, voice: PitchHistogram, octaves_only: bool = False) -> ShiftChoice:
    """The transposition, of -24 to 24 semitones, under which the notes of a song are likeliest in a voice.

    Both histograms are smoothed alike, and the mean log-likelihood of the song's under the voice's decides; the
    nearest to 0 of equal ones. (That mean is greatest where the two are the same, so a voice's own song, moved by k
    semitones, is moved back by k, whatever it looks like.) 0 if either has no voiced frame. `octaves_only` keeps the
    song's key.
    """
    if not song.frames or not voice.frames:
        return describe_shift(song, voice, 0)
    scores = _scores(song, voice)
    step = 12 if octaves_only else 1
    candidates = sorted(range(-MAX_SHIFT, MAX_SHIFT + 1, step), key=lambda shift: (abs(shift), shift))
    best = max(scores[shift] for shift in candidates)
    return describe_shift(song, voice, next(shift for shift in candidates if scores[shift] >= best - _TIE))


def describe_shift(song: PitchHistogram, voice: PitchHistogram, semitones: float) -> ShiftChoice:
    """What comes of a transposition, whoever chose it."""
    if not song.frames:
        return ShiftChoice(semitones, f"transposed by {semitones:+g}: no pitch was found in the song")
    if not voice.frames:
        return ShiftChoice(semitones, f"transposed by {semitones:+g}: the voice's pitch histogram is empty")
    low, high = voice.range
    shares = np.asarray(song.counts, np.float64) / song.frames
    notes = CENTRES + semitones
    below, above = shares * (notes < low), shares * (notes > high)
    outside = float(below.sum() + above.sum())
    before = float(shares[(low > CENTRES) | (high < CENTRES)].sum())
    voice_range = f"{note_name(low)} to {note_name(high)}"
    medians = [
        f"{note_name(midi)} ({440.0 * 2 ** ((midi - 69) / 12):.0f} Hz)"
        for midi in (song.median, song.median + semitones, voice.median)
    ]
    reason = (
        f"transposed by {semitones:+g}: the song's median goes from {medians[0]} to {medians[1]}, the voice's is "
        f"{medians[2]}; {1 - outside:.0%} of the song's notes are within the voice's range {voice_range}, "
        f"{1 - before:.0%} were before"
    )
    if outside <= WARN_OUTSIDE:
        return ShiftChoice(semitones, reason, outside)
    ends = {"down to": _first_note(below, notes), "up to": _first_note(above[::-1], notes[::-1])}
    warning = (
        f"with the transposition {semitones:+g}, {outside:.0%} of the song is outside the voice's range {voice_range}: "
        f"it goes {' and '.join(f'{word} {note}' for word, note in ends.items() if note)}, where the voice was hardly "
        "trained; expect artefacts there"
    )
    return ShiftChoice(semitones, reason, outside, warning)


def describe_notes(notes: PitchHistogram) -> str:
    """A voice's range and median in words."""
    if not notes.frames:
        return "sings no note that was found"
    low, high = (note_name(notes.percentile(percent)) for percent in _RANGE_PERCENT)
    return f"sings {low} to {high}, median {note_name(notes.median)}"


def note_name(midi: float) -> str:
    """The nearest note, the higher of two: 69 is "A4", 60.5 is "C#4". (librosa takes the even one, wrongly below 0.)"""
    number = int(np.floor(midi + 0.5))
    return f"{_NAMES[number % 12]}{number // 12 - 1}"


def _first_note(shares: np.ndarray, notes: np.ndarray) -> str | None:
    """The outermost note, leaving out what is too rare to be meant."""
    reached = np.flatnonzero(np.cumsum(shares) > _NAMED_SHARE)
    return note_name(notes[reached[0]]) if len(reached) else None


def _scores(song: PitchHistogram, voice: PitchHistogram) -> dict[int, float]:
    """Mean log-likelihood, in nats, of the song under the voice, for every shift."""
    # The voice's axis is longer than the song's by the greatest shift on either side, and sliding over it is shifting.
    spread = MAX_SHIFT * BINS_PER_SEMITONE
    expected = _smoothed(song, spread)
    likelihood = np.log(_smoothed(voice, 2 * spread))
    sums = np.correlate(likelihood, expected, "valid")[::BINS_PER_SEMITONE]
    return {shift: float(total) for shift, total in zip(range(-MAX_SHIFT, MAX_SHIFT + 1), sums, strict=True)}


def _smoothed(histogram: PitchHistogram, spread: int) -> np.ndarray:
    """The histogram as a distribution (N_BINS + 2 * spread,), positive everywhere, that goes on beyond its ends."""
    notes = np.arange(-spread, N_BINS + spread) / BINS_PER_SEMITONE + LOWEST_MIDI
    distance = np.abs(notes[:, None] - CENTRES[None, :])
    bell = np.exp(-0.5 * (distance / _BELL_SEMITONES) ** 2) / (_BELL_SEMITONES * np.sqrt(2 * np.pi))
    tail = np.exp(-distance / _TAIL_SEMITONES) / (2 * _TAIL_SEMITONES)
    kernel = ((1 - _TAIL_SHARE) * bell + _TAIL_SHARE * tail) / BINS_PER_SEMITONE
    return kernel @ (np.asarray(histogram.counts, np.float64) / histogram.frames)
