"""What is measured of single held notes, and the range of a voice that comes of it; not who sings them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modules.contracts import F0

RIGHT_CENTS = 50.0  # from the note that was asked for
RIGHT_SHARE = 0.8  # of the frames, by each predictor
LEVEL_DB = 6.0  # below the median of the right notes: as quiet as a comfortable note may be
CLARITY_DB = 6.0  # below their median clarity: as noisy as one may be
_SMOOTH = 3  # notes, of whose level and noise the median counts
_TEETH = 0.12  # of F0 at either side of a harmonic belongs to it
_NOISE_HZ, _FEWEST_HARMONICS = 5000.0, 4  # how high noise is looked for; for high notes so many harmonics
_FLOOR = 1e-12


@dataclass(frozen=True)
class NoteScore:
    """What was measured of one note."""

    midi: int
    shares: tuple[float, ...]  # by each predictor: frames that are voiced and within RIGHT_CENTS of it, 0 to 1
    level_db: float  # of full scale, RMS
    clarity_db: float  # harmonics against noise

    @property
    def is_right(self) -> bool:
        """Whether all predictors hear the note that was asked for."""
        return all(share >= RIGHT_SHARE for share in self.shares)


@dataclass(frozen=True)
class FoundRange:
    """Lowest and highest note of the two parts of a scale."""

    sings: tuple[int, int]
    comfortable: tuple[int, int]


def judge_note(wav: np.ndarray, rate: int, midi: int, curves: Sequence[F0]) -> NoteScore:
    """Measures the held part of a note, `wav` (T,), of which `curves` hold what each predictor hears of it."""
    hz = 440.0 * 2.0 ** ((midi - 69) / 12)
    shares = []
    for curve in curves:
        cents = 1200 * np.abs(np.log2(np.maximum(curve.f0, 1e-3) / hz))
        shares.append(float(np.mean((curve.uv > 0.5) & (cents <= RIGHT_CENTS))) if len(curve.f0) else 0.0)
    level = 10 * np.log10(np.mean(np.square(wav, dtype=np.float64)) + _FLOOR)
    return NoteScore(midi, tuple(shares), float(level), harmonics_to_noise(wav, rate, hz))


def harmonics_to_noise(wav: np.ndarray, rate: int, hz: float) -> float:
    """Energy near the harmonics of `hz` against that between them, in dB, of a held note `wav` (T,) of that pitch.

        10 log10( sum |X(f)|^2, |f / F0 - k| < 0.12  /  sum |X(f)|^2 for all other f ),   k = 1, 2, ...

    X is the spectrum of the whole note under a Hann window, from F0 / 2 up to 5 kHz, for notes above 1.25 kHz up to
    four harmonics. White noise gives -5 dB, a steady tone of half a second 45 to 100.
    """
    power = np.abs(np.fft.rfft(wav * np.hanning(len(wav)))) ** 2
    order = np.fft.rfftfreq(len(wav), 1 / rate) / hz
    inside = (order > 0.5) & (order * hz < max(_NOISE_HZ, _FEWEST_HARMONICS * hz))
    near = np.abs(order - np.round(order)) < _TEETH
    return float(10 * np.log10((power[inside & near].sum() + _FLOOR) / (power[inside & ~near].sum() + _FLOOR)))


def find_range(scores: Sequence[NoteScore]) -> FoundRange | None:
    """The range that the scores of ascending notes show; None where no two neighbours are right.

    sings        the longest run of right notes; one wrong note does not end it between two right ones at either side
    comfortable  the longest run in it of right notes that are not more than LEVEL_DB below their median level and not
                 more than CLARITY_DB below their median clarity; the same of single ones

    Of level and clarity the median of three neighbours counts.
    """
    run = longest_run([score.is_right for score in scores])
    if run is None:
        return None
    sung = scores[run]
    right = [score for score in sung if score.is_right]
    level_limit = np.median([score.level_db for score in right]) - LEVEL_DB
    clarity_limit = np.median([score.clarity_db for score in right]) - CLARITY_DB
    levels, clarities = (_smoothed([getattr(score, name) for score in sung]) for name in ("level_db", "clarity_db"))
    good = (levels >= level_limit) & (clarities >= clarity_limit) & [score.is_right for score in sung]
    best = longest_run(good.tolist()) or slice(0, len(sung))
    return FoundRange((sung[0].midi, sung[-1].midi), (sung[best][0].midi, sung[best][-1].midi))


def longest_run(good: Sequence[bool]) -> slice | None:
    """The longest stretch of good ones, the lowest of equal ones; a single bad one with two good ones at either side
    does not end it. None where there are no two good ones side by side."""
    filled = list(good)
    for index in range(2, len(good) - 2):
        filled[index] = filled[index] or all(good[index + step] for step in (-2, -1, 1, 2))
    best, start = slice(0, 0), None
    for index, is_good in enumerate([*filled, False]):
        if is_good and start is None:
            start = index
        elif not is_good and start is not None:
            best = slice(start, index) if index - start > best.stop - best.start else best
            start = None
    return best if best.stop - best.start >= 2 else None


def _smoothed(values: Sequence[float]) -> np.ndarray:
    padded = np.pad(np.asarray(values, np.float64), _SMOOTH // 2, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, _SMOOTH), axis=1)
