"""A long take to clips: where it is cut and which silence is left out, by its loudness and tonality each 20 ms.

The rules are audio-slicer's (a threshold relative to the take, a least silence, a kept silence), but all cuts are
chosen together: of all ways to cut a take into clips of allowed lengths, the one whose cuts are heard least.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from modules.audio.slicer import MIN_INTERVAL_MS, RmsMeter, Segment
from modules.audio.tonality import ToneMeter

_WINDOW_HOPS = (2, 4, 8, 16)  # 40 ms centred on a cut show a gap between two notes, 320 ms tell a pause from a gap
_KEPT_SILENCE = 25  # frames; 0.5 s of a long silence stay with the clip at either side of it
_LEAST_SILENCE = MIN_INTERVAL_MS // 20  # frames
_LEAST_CLIP = 15  # frames; 0.3 s, the least that a recording may have
_NEIGHBOURHOOD = 25  # frames at either side in which a note around a frame shows
_ABOVE_FLOOR = 10  # dB; most of a pause is 6 to 9 dB above its quietest frame (four voices with pauses of their own)
_FLOOR_SECONDS = 10  # at either side, in which the quietest place is the noise of the moment

# Noise has a tonality of 0.2 to 0.4, pauses 0.2 to 0.7 (median of each; four voices), sung notes 0.8 to 0.95.
_NOISE, _TONE = 0.4, 0.75

# All costs are in hundredths of a decibel and whole numbers, so that sums do not depend on their order.
_DECIBEL = 100
_EDGE = 5 * _DECIBEL  # of a cut at the edge of a silence; nothing from `_KEPT_SILENCE` inside
_SOUND = 6 * _DECIBEL  # of a cut anywhere else, x dB above the threshold: and x (1 + x / 10) dB more
_NOTE = 150 * _DECIBEL  # of a cut inside a note: where it is not quieter than before and after
_LENGTH = 2 * _DECIBEL  # of the shortest and the longest clip; nothing halfway between
_LONG_SILENCE = 25 * _DECIBEL  # of each second of silence in a clip that could have been left out
_SHORT = 25 * _DECIBEL  # of a clip below the shortest, between two silences, and up to twice more the shorter it is
_SHORT_SOUND = 1000 * _DECIBEL  # where one of its ends is not in a silence: rather cut anywhere
_NEVER = 1 << 60
_LEAST = 1e-9  # amplitude


@dataclass(frozen=True)
class CutPlan:
    """How a take becomes clips."""

    segments: tuple[Segment, ...]  # from the start to the end of the take; the voiced ones are the clips
    n_audible: int  # cuts that are not where it is silent


class TakeMeter:
    """Listens to a take as it streams by, and then says where to cut it."""

    def __init__(self, rate: int) -> None:
        self._rate, self._loudness = rate, RmsMeter(rate)
        self._tones = ToneMeter(rate, self._loudness.hop_length)

    def push(self, block: np.ndarray) -> None:
        """Takes the next (T,) samples."""
        self._loudness.push(block)
        self._tones.push(block)

    def plan(self, shortest: float, longest: float) -> CutPlan:
        """Cuts what was pushed into clips of `shortest` to `longest` seconds.

        No clip is longer. One may be shorter where it lies between two silences and all else would be worse. No sound
        is left out.
        """
        n_samples, hop = self._loudness.n_samples, self._loudness.hop_length
        rms, tones = [self._loudness.finish(hops) for hops in _WINDOW_HOPS], self._tones.finish()
        levels, thresholds = 20 * np.log10(np.maximum(rms, _LEAST)), silence_thresholds(rms[0])
        runs = _silences(levels[0], tones, thresholds)
        places = _places(_costs(levels, tones, thresholds, runs), runs, n_samples, hop)
        chosen = _cheapest(places, hop, self._rate, (shortest, longest))
        cuts = places.ends[chosen[1:-1]] // hop
        segments, at = [], 0
        for left, right in itertools.pairwise(chosen):
            start, end = int(places.begins[left]), int(places.ends[right])
            segments += [Segment(at, start, False)] * (start > at) + [Segment(start, end, True)]
            at = end
        segments += [Segment(at, n_samples, False)] * (at < n_samples)
        return CutPlan(tuple(segments), int((levels[0][cuts] >= thresholds[cuts]).sum()))


@dataclass(frozen=True)
class _Places:
    """Where a take can be cut, in order; the first is its start and the last its end. All (P,)."""

    ends: np.ndarray  # samples; where the clip before ends
    begins: np.ndarray  # where the clip after begins; later than that where silence is left out
    costs: np.ndarray
    are_silent: np.ndarray
    excess: np.ndarray  # frames of silence up to and with this place that could be left out


def silence_thresholds(rms: np.ndarray) -> np.ndarray:
    """Level in dB below which each frame is silent, (F,): just above the noise there, 40 to 8 dB below the voice.

    The voice's level is the mean of what is not 10 dB below the mean (the relative gate of ITU-R BS.1770, unweighted).
    """
    power, size = rms**2, 50  # frames to a second
    voice = 10 * np.log10(max(power[power >= power.mean() / 10].mean(), _LEAST**2))
    levels = np.full(-(-len(rms) // size) * size, np.inf)
    is_sound = np.flatnonzero(rms)  # digital silence is not the noise of a room
    levels[is_sound] = 20 * np.log10(rms[is_sound])
    lowest = np.pad(levels.reshape(-1, size).min(axis=1), _FLOOR_SECONDS, constant_values=np.inf)
    floor = np.lib.stride_tricks.sliding_window_view(lowest, 2 * _FLOOR_SECONDS + 1).min(axis=1)
    return np.clip(np.repeat(floor, size)[: len(rms)] + _ABOVE_FLOOR, voice - 40, voice - 8)


def _silences(levels: np.ndarray, tones: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """(R, 2) first and last frame of each silence that is long enough; a soft note is none."""
    steps = np.diff((levels < thresholds).astype(np.int8), prepend=0, append=0)
    runs = np.stack([np.flatnonzero(steps == 1), np.flatnonzero(steps == -1) - 1], axis=1)
    runs = runs[runs[:, 1] - runs[:, 0] >= _LEAST_SILENCE - 1]
    are_notes = [np.median(tones[first : last + 1]) > _TONE for first, last in runs]
    return runs[~np.array(are_notes, bool)]


def _costs(levels: np.ndarray, tones: np.ndarray, thresholds: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """What a cut at each frame costs, (F,) int64: least deep in a silence, most inside of a note.

    A note goes on through a tone that is not quieter than what is before and after it:   ___/--x--\\__/----
    `levels` (W, F) are those of windows of several lengths.
    """
    size, excess = _NEIGHBOURHOOD, np.maximum(0, levels - thresholds).mean(axis=0)
    levels = levels[0]
    padded = np.pad(levels, size, constant_values=-np.inf)
    loudest = np.lib.stride_tricks.sliding_window_view(padded, size + 1).max(axis=1)
    dip = np.minimum(loudest[: len(levels)], loudest[size:]) - levels
    is_note = 1 - np.clip((dip - 3) / 9, 0, 1)  # 3 dB: the trembling of a held note
    is_note *= np.clip((tones - _NOISE) / (_TONE - _NOISE), 0, 1)
    costs = _SOUND + _DECIBEL * excess * (1 + excess / 10) + _NOTE * is_note
    for first, last in runs:
        inside = np.arange(last - first + 1)
        depth = np.minimum(np.minimum(inside, inside[::-1]), _KEPT_SILENCE)
        costs[first : last + 1] = _EDGE * (1 - depth / _KEPT_SILENCE)
    return np.rint(costs).astype(np.int64)


def _places(costs: np.ndarray, runs: np.ndarray, n_samples: int, hop: int) -> _Places:
    """Every frame, but of a long silence only its two ends, between which it is left out."""
    frames = np.arange(len(costs))
    ends, begins = frames * hop, frames * hop
    are_silent, is_place, excess = np.zeros(len(costs), bool), ends < n_samples, np.zeros(len(costs), np.int64)
    n_used = n_samples
    is_place[0] = are_silent[0] = True
    for first, last in runs:
        are_silent[first : last + 1] = True
        if first == 0 or last == len(costs) - 1:  # silence that trimming has left
            n_used = min(n_used, (first + _KEPT_SILENCE) * hop) if first else n_used
            begins[0] = begins[0] if first else max(0, last - _KEPT_SILENCE) * hop
            is_place[max(first, 1) : last + 1] = False
        elif last - first > 2 * _KEPT_SILENCE:
            ends[first], begins[first] = (first + _KEPT_SILENCE) * hop, (last - _KEPT_SILENCE) * hop
            costs[first], excess[first] = 0, last - first - 2 * _KEPT_SILENCE
            is_place[first + 1 : last + 1] = False
    kept = np.flatnonzero(is_place)
    return _Places(
        np.append(ends[kept], n_used),
        np.append(begins[kept], n_used),
        np.append(costs[kept], 0),
        np.append(are_silent[kept], True),
        np.append(np.cumsum(excess[kept]), excess.sum()),
    )


def _cheapest(places: _Places, hop: int, rate: int, lengths_wanted: tuple[float, float]) -> list[int]:
    """The places to cut at, the first and the last among them, by dynamic programming over the clips' ends."""
    shortest, longest = (int(seconds * rate) for seconds in lengths_wanted)
    n_places, middle = len(places.ends), (shortest + longest) // 2
    unit = max(1, ((longest - shortest) // 2) ** 2 // _LENGTH)
    least = min(_LEAST_CLIP * hop, int(places.ends[-1] - places.begins[0]))
    left_out = places.excess * (_LONG_SILENCE * hop // rate)
    # Of the places before: where a clip that ends here is not too long, not too short, and not impossibly short.
    earliest = np.searchsorted(places.begins, places.ends - longest)
    latest = np.minimum(np.searchsorted(places.begins, places.ends - least, side="right"), np.arange(n_places))
    n_long = np.clip(np.searchsorted(places.begins, places.ends - shortest, side="right"), earliest, latest) - earliest
    # The least cost up to a place, less that of all silences up to there: a difference is that of those in between.
    best, previous = np.full(n_places, _NEVER), np.zeros(n_places, np.int64)
    best[0] = -left_out[0]
    for place in range(1, n_places):
        before = slice(earliest[place], latest[place])
        if before.start >= before.stop:
            continue
        lengths = places.ends[place] - places.begins[before]
        total = lengths - middle
        total *= total
        total //= unit
        total += best[before]
        short = slice(n_long[place], None)
        missing = shortest - lengths[short]
        if len(missing):
            penalty = _SHORT_SOUND
            if places.are_silent[place]:
                penalty = np.where(places.are_silent[before][short], _SHORT, _SHORT_SOUND)
            total[short] += penalty + 2 * penalty * missing // shortest
        choice = int(total.argmin())
        best[place] = total[choice] + places.costs[place] + left_out[place - 1] - left_out[place]
        previous[place] = before.start + choice
    chosen = [n_places - 1]
    while chosen[-1]:
        chosen.append(int(previous[chosen[-1]]))
    return chosen[::-1]
