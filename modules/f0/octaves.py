"""A second look at a pitch curve: octave errors are repaired where the sound is clear about them, the rest is doubt.

The witness is the sound's own autocorrelation, r. A wave of period T is alike after T, 2T, 3T, but not after T / 2:

    the curve is an octave high   r at twice its period is clearly better          -> halved
    the curve is an octave low    r at half its period is as good                  -> doubled
    the curve is right            r at twice its period is no better, at half it worse -> stays, to the bit

So a singer's real leap of an octave stays, and it does not matter how loud the sound is or what made the curve.
"""

import sys
from dataclasses import dataclass

import numpy as np

from modules.audio.io import resample
from modules.f0.limits import HIGHEST, LOWEST

LOOK_RATE = 11025  # Hz: the harmonics below 5 kHz tell the period
WINDOW = 720  # samples, 65 ms
BLOCK_FRAMES = 2048  # whose autocorrelation is held at once: 13 MB
FACTORS = np.array([1 / 4, 1 / 3, 1 / 2, 1, 2, 3])  # of the curve's pitch, that are weighed against each other
SAME = 3  # index of 1
_OVERSAMPLING = 2  # of the autocorrelation
_SEARCH = 2 ** (np.linspace(-50, 50, 7) / 1200)  # around a period
_NEARLY = 0.12  # a shorter period counts when r is this near the best: rough voices repeat best every second
_DIP = 0.3  # r falls by this, and more, between a period and the next: else it is rumble

# By how much r has to be better for a change (a negative number asks for more), whether it leads to the middle of what
# is sung or away from it.
_DOWN, _DOWN_TO_MIDDLE, _UP, _UP_TO_MIDDLE = -0.10, -0.015, -0.04, 0.02
_LOWER = 0.05  # by which r has to be better, in the middle of all frames that go down
_RARE = -0.05  # in addition for thirds and quarters, away from the middle
_RINGING = 0.25  # r by which half a period may be better than the whole
_LEAP = 0.4  # r that an octave from one frame to the next costs
_LEAST_EVIDENCE, _LEAST_FRAMES = 0.15, 3  # r summed over the frames of one change; how many these are
_VIBRATO = 1.06  # times f0_max may be reached, and becomes f0_max
_UNCLEAR, _CLEAR = 0.5, 0.8  # frames with a best r below the first do not count, above the second fully

# Where this share of a clip was wrong or leaps out of the melody for a moment, a tracker that keeps to the range found
# so far is asked too, and believed where the sound allows several pitches.
_MISLED = 0.01
_WITNESS = 0.15  # r that its word is worth
_APART, _OCTAVE = 0.4, 0.75  # octaves between two notes; between a note and its octave, with some room
_QUARTILES = (0.75, 2.0)  # of the first and third quartile: its limits
_MELODY_FRAMES = 61  # whose median is the melody
_LEAP_OUT = 0.5  # octaves from the melody
_MOMENT = 0.25  # seconds: what lasts longer is meant
_FAINT = 0.6  # times the median level of what is voiced

_DOUBT_HEIGHT, _DOUBT_GAP = 0.85, 0.2  # r of a pitch that contradicts the curve, and how much better it is
_DOUBT_LEVEL = 0.2  # times the median level of what is voiced
_SAME_NOTE = 0.04  # octaves
_BEYOND = 1.02  # times a limit is beyond it
_ORDINARY = (65.0, 1000.0)  # Hz: not every predictor hears what lies beyond
_LEAST_RUN = 0.1  # seconds: what is shorter is a consonant


@dataclass(frozen=True)
class Evidence:
    """What the autocorrelation says about each of N frames."""

    support: np.ndarray  # (N, 6) r at the curve's pitch times each of FACTORS; -1 where that cannot be seen
    pitch: np.ndarray  # (N,) Hz of the shortest period after which the sound is about as alike as it ever is; 0: none
    height: np.ndarray  # (N,) r there
    level: np.ndarray  # (N,) RMS, in any unit


def check_octaves(
    wav: np.ndarray, rate: int, hop_seconds: float, curve: np.ndarray, f0_min: float, f0_max: float
) -> tuple[np.ndarray, np.ndarray]:
    """A curve (N,) Hz, 0 where unvoiced, of `wav` (T,) with its octave errors repaired; and, (N,) Hz, the pitch of the
    sound where it still contradicts the curve, 0 where it does not."""
    sound = resample(np.asarray(wav, np.float32), rate, LOOK_RATE)
    times = np.arange(len(curve)) * hop_seconds
    evidence = look(sound, times, curve)
    choice = _keep_melody(curve, choose_factors(curve, evidence, f0_min, f0_max), hop_seconds)
    repaired = np.where(choice == SAME, curve, np.minimum(curve * FACTORS[choice], f0_max))
    support = evidence.support[np.arange(len(curve)), choice]
    voiced = curve > 0
    is_misled = (choice != SAME).sum() > _MISLED * voiced.sum()
    if is_misled or _leaves_melody(repaired, repaired).sum() > _MISLED * voiced.sum():
        witness = track_in_range(sound, times, repaired)
        unsure = (support < _UNCLEAR) | (evidence.level < _FAINT * np.median(evidence.level[voiced]))
        if is_misled:
            choice = choose_factors(curve, evidence, f0_min, f0_max, witness)
            choice = _keep_melody(curve, choice, hop_seconds)
            repaired = np.where(choice == SAME, curve, np.minimum(curve * FACTORS[choice], f0_max))
            support = evidence.support[np.arange(len(curve)), choice]
            repaired = _follow(repaired, witness, _distance(repaired, witness) > _APART, hop_seconds)
        elif (octaves_off := unsure & (_distance(repaired, witness) > _OCTAVE)).sum() > _MISLED * voiced.sum():
            repaired = _follow(repaired, witness, octaves_off, hop_seconds)
    return repaired, _contradictions(repaired, support, evidence, (f0_min, f0_max), hop_seconds)


def find_contradictions(
    wav: np.ndarray, rate: int, hop_seconds: float, curve: np.ndarray, f0_min: float, f0_max: float
) -> np.ndarray:
    """The second of what `check_octaves` gives, of a curve that stays as it is."""
    sound = resample(np.asarray(wav, np.float32), rate, LOOK_RATE)
    evidence = look(sound, np.arange(len(curve)) * hop_seconds, curve)
    return _contradictions(curve, evidence.support[:, SAME], evidence, (f0_min, f0_max), hop_seconds)


def look(sound: np.ndarray, times: np.ndarray, curve: np.ndarray) -> Evidence:
    """The evidence for a curve (N,) Hz at `times` (N,) seconds of `sound` (T,) at LOOK_RATE."""
    parts = []
    for start in range(0, len(curve), BLOCK_FRAMES):
        block = slice(start, start + BLOCK_FRAMES)
        r, level = autocorrelation(sound, times[block])
        support = [_near(r, curve[block] * factor) for factor in FACTORS]
        parts.append((np.stack(support, axis=1), *_shortest_period(r), level))
    return Evidence(*(np.concatenate(values) for values in zip(*parts)))


def autocorrelation(sound: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """r (N, lags) of the sound around each time, 1 at lag 0, in steps of 1 / (2 LOOK_RATE) seconds; and its level (N,).

    It is divided by the window's own.
    Source: Boersma, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a
    sampled sound", 1993, eq. 9.
    """
    width = WINDOW
    n_lags = int(_OVERSAMPLING * LOOK_RATE / LOWEST) + 4
    starts = np.minimum(np.round(times * LOOK_RATE).astype(np.int64), len(sound))
    padded = np.pad(sound, (width // 2, width))
    frames = np.lib.stride_tricks.sliding_window_view(padded, width)[starts]
    window = np.hanning(width).astype(np.float32)
    frames = (frames - frames.mean(axis=1, keepdims=True)) * window

    def correlate(x: np.ndarray) -> np.ndarray:
        if "torch" in sys.modules:  # importing scipy.fft takes 0.3 s, importing torch 2 s; numpy's takes twice as long
            import torch

            power = torch.fft.rfft(torch.from_numpy(x), 2 * width).abs().square()
            return torch.fft.irfft(power, 2 * width * _OVERSAMPLING)[..., :n_lags].numpy()
        from scipy import fft

        power = np.abs(fft.rfft(x, 2 * width)) ** 2
        return fft.irfft(power, 2 * width * _OVERSAMPLING)[..., :n_lags]

    found, of_window = correlate(frames), correlate(window)
    energy = found[:, :1]
    return found / np.maximum(energy, 1e-12) / (of_window / of_window[0]), np.sqrt(energy[:, 0])


def choose_factors(
    curve: np.ndarray, evidence: Evidence, f0_min: float, f0_max: float, witness: np.ndarray | None = None
) -> np.ndarray:
    """For each frame the index of the factor that mends the curve, (N,): mostly SAME. The best path through them."""
    values = curve[:, None] * FACTORS
    voiced = curve > 0
    log = np.log2(_positive(values))
    # What has a shorter period has the longer one as well: a short one alone is the ringing of a consonant.
    rings = (FACTORS > 1) & (evidence.support > evidence.support[:, SAME : SAME + 1] + _RINGING)
    scores = np.where(rings, -1.0, evidence.support) + _handicaps(log, evidence)
    if witness is not None:
        agrees = (witness[:, None] > 0) & (np.abs(log - np.log2(_positive(witness))[:, None]) < 1 / 8)
        scores = scores + _WITNESS * agrees
    clear = np.clip((evidence.support.max(axis=1) - _UNCLEAR) / (_CLEAR - _UNCLEAR), 0, 1)
    scores = scores * clear[:, None]
    outside = (values < f0_min) | (values > _VIBRATO * f0_max)
    outside[:, SAME] = False
    scores[outside] = -1e3
    choice = np.full(len(curve), SAME)
    for first, last in _runs(voiced):
        choice[first:last] = _best_path(scores[first:last], log[first:last])
    down = FACTORS[choice] < 1
    if (
        down.any()
        and np.median((evidence.support[np.arange(len(curve)), choice] - evidence.support[:, SAME])[down]) < _LOWER
    ):
        choice[down] = SAME  # a longer period that is hardly better repeats the right one: buzzing has all of them
    gain = scores[np.arange(len(curve)), choice] - scores[:, SAME]
    for factor in np.unique(choice[choice != SAME]):
        for first, last in _runs(choice == factor):
            if gain[first:last].sum() < _LEAST_EVIDENCE or last - first < _LEAST_FRAMES:
                choice[first:last] = SAME
    return choice


def track_in_range(sound: np.ndarray, times: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """Praat's pitch at `times`, (N,) Hz and 0 where unvoiced, looked for only around the quartiles of a curve (N,).

    Source: De Looze and Hirst, "Detecting changes in key and range for the automatic modelling and coding of
    intonation", Speech Prosody 2008, which chooses such limits.
    """
    import parselmouth

    low, high = np.percentile(curve[curve > 0], (25, 75)) * _QUARTILES
    step = times[1] - times[0] if len(times) > 1 else 0.01
    low = max(low, LOWEST, 3.5 * LOOK_RATE / len(sound))  # three periods have to fit
    if high <= 1.5 * low:
        return np.zeros(len(times))
    found = parselmouth.Sound(sound.astype(np.float64), LOOK_RATE).to_pitch_ac(
        time_step=step, pitch_floor=low, pitch_ceiling=min(high, LOOK_RATE / 4)
    )
    frequency = found.selected_array["frequency"]
    index = np.round((times - found.xs()[0]) / step).astype(np.int64)
    inside = (index >= 0) & (index < len(frequency))
    return np.where(inside, frequency[np.clip(index, 0, len(frequency) - 1)], 0.0)


def _contradictions(
    curve: np.ndarray, support: np.ndarray, evidence: Evidence, limits: tuple[float, float], hop_seconds: float
) -> np.ndarray:
    """See `check_octaves`; `support` is r (N,) at the curve's pitch."""
    if not len(curve):
        return np.zeros(0)
    pitch, level, unvoiced = evidence.pitch, evidence.level, curve == 0
    loud = level if unvoiced.all() else level[~unvoiced]
    is_clear = (pitch > 0) & (evidence.height > _DOUBT_HEIGHT) & (level > _DOUBT_LEVEL * np.median(loud))
    is_other = is_clear & (_distance(pitch, curve) > _SAME_NOTE) & (support < evidence.height - _DOUBT_GAP)
    # Beyond the limits it may be the octave that was found, with as good an r, or nothing.
    low, high = (max(limits[0], _ORDINARY[0]), min(limits[1], _ORDINARY[1]))
    is_beyond = is_clear & (pitch > _BEYOND * limits[1]) & (_distance(pitch, curve) > _SAME_NOTE)
    is_beyond |= is_clear & unvoiced & ((pitch > _BEYOND * high) | (pitch * _BEYOND < low))
    found = np.zeros(len(curve))
    for first, last in _runs(is_other | is_beyond):
        if (last - first) * hop_seconds >= _LEAST_RUN:
            found[first:last] = pitch[first:last]
    return found


def _keep_melody(curve: np.ndarray, choice: np.ndarray, hop_seconds: float) -> np.ndarray:
    """The factors (N,) without the moments in which the curve keeps to the melody and its repair would leave it: a
    rough voice or a noisy result repeats itself only every second period there."""
    repaired = curve * FACTORS[choice]
    is_worse = _leaves_melody(repaired, repaired) & ~_leaves_melody(curve, repaired)
    choice = choice.copy()
    for first, last in _runs(choice != SAME):
        if (last - first) * hop_seconds <= _MOMENT and is_worse[first:last].mean() > 0.5:
            choice[first:last] = SAME
    return choice


def _leaves_melody(curve: np.ndarray, melody: np.ndarray) -> np.ndarray:
    """Whether each frame of a curve lies half an octave and more from the median of the voiced frames around it in the
    curve `melody`, (N,) Hz each and voiced alike."""
    voiced = curve > 0
    leaves = np.zeros(len(curve), bool)
    if voiced.any():
        padded = np.pad(np.log2(melody[voiced]), _MELODY_FRAMES // 2, mode="edge")
        middle = np.median(np.lib.stride_tricks.sliding_window_view(padded, _MELODY_FRAMES), axis=1)
        leaves[voiced] = np.abs(np.log2(curve[voiced]) - middle) > _LEAP_OUT
    return leaves


def _follow(curve: np.ndarray, witness: np.ndarray, odd: np.ndarray, hop_seconds: float) -> np.ndarray:
    """The curve with moments that are `odd` (N,) taken from the witness."""
    curve = curve.copy()
    for first, last in _runs(odd):
        if (last - first) * hop_seconds <= _MOMENT:
            curve[first:last] = witness[first:last]
    return curve


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Octaves between two curves (N,) Hz; 0 where one is unvoiced."""
    return np.where((a > 0) & (b > 0), np.abs(np.log2(_positive(a) / _positive(b))), 0.0)


def _handicaps(log: np.ndarray, evidence: Evidence) -> np.ndarray:
    """What is added to r for each factor, (N, 6); `log` is log2 of the pitch that it gives."""
    clear = evidence.height > _CLEAR
    middle = np.log2(np.median(evidence.pitch[clear])) if clear.any() else np.median(log[:, SAME])
    distance = np.abs(log - middle)
    to_middle = distance < distance[:, SAME : SAME + 1] - 0.2
    found = np.where(to_middle, _UP_TO_MIDDLE, _UP) * (FACTORS > 1)
    found = found + np.where(to_middle, _DOWN_TO_MIDDLE, _DOWN) * (FACTORS < 1)
    return found + np.where(to_middle, 0.0, _RARE) * (np.abs(np.log2(FACTORS)) > 1)


def _best_path(scores: np.ndarray, log: np.ndarray) -> np.ndarray:
    """Viterbi: the column of each row (n,) that gives the highest sum of scores (n, 6) less the leaps between rows."""
    n, width = scores.shape
    total, came_from = scores[0], np.zeros((n, width), np.int64)
    rows = np.arange(width)
    for index in range(1, n):
        leaps = np.minimum(np.abs(log[index][:, None] - log[index - 1]), 1.2)
        reached = total - _LEAP * leaps
        came_from[index] = reached.argmax(axis=1)
        total = reached[rows, came_from[index]] + scores[index]
    path = np.zeros(n, np.int64)
    path[-1] = total.argmax()
    for index in range(n - 1, 0, -1):
        path[index - 1] = came_from[index, path[index]]
    return path


def _near(r: np.ndarray, pitch: np.ndarray) -> np.ndarray:
    """The highest r (N, lags) within 50 cents of a pitch (N,) Hz, read between lags (Catmull and Rom's cubic)."""
    steps = _OVERSAMPLING * LOOK_RATE / _positive(pitch)
    seen = (pitch > 0) & (steps > 4) & (steps * _SEARCH[-1] < r.shape[1] - 2)
    found, rows = np.full(len(pitch), -1.0), np.flatnonzero(seen)
    at = steps[rows, None] * _SEARCH
    left = np.floor(at).astype(np.int64)
    t = at - left
    a, b, c, d = (r[rows[:, None], left + offset] for offset in (-1, 0, 1, 2))
    cubic = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    found[rows] = cubic.max(axis=1)
    return found


def _shortest_period(r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`pitch` and `height` of `Evidence`, of r (N, lags)."""
    first, last = int(_OVERSAMPLING * LOOK_RATE / HIGHEST), r.shape[1] - 2
    middle = r[:, first:last]
    is_peak = (middle > r[:, first - 1 : last - 1]) & (middle >= r[:, first + 1 : last + 1])
    is_peak &= middle > np.minimum.accumulate(r, axis=1)[:, first:last] + _DIP
    peaks = np.where(is_peak, middle, 0.0)
    best = peaks.max(axis=1)
    index = (peaks >= (best - _NEARLY)[:, None]).argmax(axis=1) + first
    before, at, after = (np.take_along_axis(r, index[:, None] + offset, axis=1)[:, 0] for offset in (-1, 0, 1))
    bend = np.minimum(before - 2 * at + after, -1e-9)  # of the parabola through the three
    lean = np.clip(0.5 * (before - after) / bend, -0.5, 0.5)
    pitch = np.where(best > 0, _OVERSAMPLING * LOOK_RATE / (index + lean), 0.0)
    return pitch, np.where(best > 0, at - 0.25 * (before - after) * lean, 0.0)


def _runs(marked: np.ndarray) -> list[tuple[int, int]]:
    """First and one past the last frame of each run of marked frames."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, 1.0)
