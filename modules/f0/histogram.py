"""Which notes a voice or a song holds, and the transposition that brings a song to where a voice is at home.

Pure arithmetic on counts of frames; `modules.data.pitch` keeps the histograms of a data set on disk.

Notes are MIDI numbers: A4 = 440 Hz = 69, one per semitone.
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
    """Voiced frames counted in bins of half a semitone.

    Args:
        counts: `N_BINS` numbers of frames, for the notes `CENTRES`; the outer bins hold what is beyond, too.
    """

    counts: tuple[int, ...] = (0,) * N_BINS

    def __post_init__(self) -> None:
        assert len(self.counts) == N_BINS, f"{len(self.counts)} bins"

    @classmethod
    def from_curve(cls, f0: np.ndarray, uv: np.ndarray) -> "PitchHistogram":
        """The histogram of a pitch curve.

        Args:
            f0: (N,) Hz.
            uv: (N,), 1 = voiced; what is unvoiced, not positive or not finite is not counted.
        """
        f0, uv = np.asarray(f0, np.float64), np.asarray(uv)
        voiced = f0[(uv > 0.5) & (f0 > 0) & np.isfinite(f0)]
        at = np.floor((hz_to_midi(voiced) - LOWEST_MIDI) * BINS_PER_SEMITONE + 0.5)
        bins = np.clip(at, 0, N_BINS - 1).astype(np.int64)
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

    @property
    def median_hz(self) -> float | None:
        """The middle note in Hz, or None without a voiced frame."""
        return None if self.median is None else midi_to_hz(self.median)

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
        """Lowest and highest note that the voice is at home with, or None without a voiced frame.

        The 1st and 99th percentile, widened by a semitone.
        """
        low, high = (self.percentile(percent) for percent in _RANGE_PERCENT)
        return None if low is None or high is None else (low - _RANGE_MARGIN, high + _RANGE_MARGIN)

    def to_plain(self) -> dict[str, int | list[int]]:
        """Numbers and lists for JSON and for checkpoints."""
        return {"lowest_midi": LOWEST_MIDI, "bins_per_semitone": BINS_PER_SEMITONE, "counts": list(self.counts)}

    @classmethod
    def from_plain(cls, value: object, where: object) -> "PitchHistogram":
        """The inverse of `to_plain`.

        Args:
            value: what was read.
            where: names the place in messages.

        Raises:
            DataError: it is no such histogram.
        """
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
    """A transposition and what comes of it.

    Args:
        semitones: added to the song's notes; a whole number where it was chosen here.
        reason: one sentence for the user.
        outside: share of the song's voiced frames, 0 to 1, outside the voice's range after the shift.
        lowest: name of the song's lowest note after the shift if it is below the range, else None.
        highest: the same above it.
        voice_range: names of the range's ends ("A2 to C5"), or None if one of the two has no voiced frame.
    """

    semitones: float
    reason: str
    outside: float = 0.0
    lowest: str | None = None
    highest: str | None = None
    voice_range: str | None = None


def choose_shift(song: PitchHistogram, voice: PitchHistogram, octaves_only: bool = False) -> ShiftChoice:
    """The transposition under which the notes of a song are likeliest in a voice.

    Both histograms are smoothed alike, and the mean log-likelihood of the song's under the voice's decides; the
    nearest to 0 of equal ones. (That mean is greatest where the two are the same, so a voice's own song, moved by k
    semitones, is moved back by k, whatever it looks like.)

    Args:
        song: what shall be sung.
        voice: what the model was trained on.
        octaves_only: whole octaves only, so that the song keeps its key.

    Returns:
        A whole number of semitones from -24 to 24; 0 if either has no voiced frame, as `reason` then says.
    """
    if not song.frames or not voice.frames:
        return judge_shift(song, voice, 0)
    scores = _scores(song, voice)
    step = 12 if octaves_only else 1
    candidates = sorted(range(-MAX_SHIFT, MAX_SHIFT + 1, step), key=lambda shift: (abs(shift), shift))
    best = max(scores[shift] for shift in candidates)
    return judge_shift(song, voice, next(shift for shift in candidates if scores[shift] >= best - _TIE))


def judge_shift(song: PitchHistogram, voice: PitchHistogram, semitones: float) -> ShiftChoice:
    """What comes of a transposition, for one chosen by hand as for one of `choose_shift`."""
    if not song.frames:
        return ShiftChoice(semitones, f"transposed by {semitones:+g}: no pitch was found in the song, nothing to go by")
    if not voice.frames:
        return ShiftChoice(semitones, f"transposed by {semitones:+g}: the voice's pitch histogram is empty")
    low, high = voice.range
    counts = np.asarray(song.counts, np.float64) / song.frames
    notes = CENTRES + semitones
    below, above = counts * (notes < low), counts * (notes > high)
    outside = float(below.sum() + above.sum())
    before = float(counts[(low > CENTRES) | (high < CENTRES)].sum())
    shown_range = f"{note_name(low)} to {note_name(high)}"
    medians = [_note_and_hz(midi) for midi in (song.median, song.median + semitones, voice.median)]
    reason = (
        f"transposed by {semitones:+g}: the song's median goes from {medians[0]} to {medians[1]}, the voice's is "
        f"{medians[2]}; {1 - outside:.0%} of the song's notes are within the voice's range {shown_range}, "
        f"{1 - before:.0%} were before"
    )
    lowest = _first_note(below, notes)
    highest = _first_note(above[::-1], notes[::-1])
    return ShiftChoice(semitones, reason, outside, lowest, highest, shown_range)


def range_warning(choice: ShiftChoice) -> str | None:
    """Names the notes that a voice was not trained on, where they are more than 2 % of the song; else None."""
    if choice.outside <= WARN_OUTSIDE:
        return None
    ends = {"down to": choice.lowest, "up to": choice.highest}
    notes = " and ".join(f"{word} {note}" for word, note in ends.items() if note)
    return (
        f"with the transposition {choice.semitones:+g}, {choice.outside:.0%} of the song is outside the voice's range "
        f"{choice.voice_range}: it goes {notes}, where the voice was hardly trained; expect it to break there"
    )


def note_name(midi: float) -> str:
    """The nearest note in words: 69 is "A4", 61 is "C#4"."""
    number = int(np.floor(midi + 0.5))
    return f"{_NAMES[number % 12]}{number // 12 - 1}"


def hz_to_midi(hz: np.ndarray | float) -> np.ndarray | float:
    """MIDI number of a positive pitch in Hz."""
    return 69 + 12 * np.log2(np.asarray(hz) / 440.0)


def midi_to_hz(midi: float) -> float:
    """Pitch in Hz of a MIDI number."""
    return 440.0 * 2 ** ((midi - 69) / 12)


def _note_and_hz(midi: float) -> str:
    return f"{note_name(midi)} ({midi_to_hz(midi):.0f} Hz)"


def _first_note(shares: np.ndarray, notes: np.ndarray) -> str | None:
    """The outermost note, leaving out what is too rare to be sung."""
    reached = np.flatnonzero(np.cumsum(shares) > _NAMED_SHARE)
    return note_name(notes[reached[0]]) if len(reached) else None


def _scores(song: PitchHistogram, voice: PitchHistogram) -> dict[int, float]:
    """Mean log-likelihood, in nats, of the song under the voice, for every shift.

    The voice's axis is longer than the song's by the greatest shift on either side, and sliding over it is shifting.
    """
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
