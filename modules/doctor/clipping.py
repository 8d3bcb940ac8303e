"""Clipping: peaks cut off at one level, as they were recorded, or smoothed afterwards by a resampler or a codec."""

import numpy as np

BLOCKS = 80  # of a frame
_BLOCK_SECONDS = 0.00025
_STEPS = 1 << 16  # histogram of peaks: steps of 16 bits, up to twice full scale
_FLAT = 0.05  # of its level by which a flat block may vary: ripples of a resampler and noise of a codec fit in
_BINS_PER_DB = 4
_TOP_BIN = 40  # +10 dB
_N_BINS = 281  # to -60 dB
_RANGE_BINS = 42  # a clipping level lies at most 10.5 dB below the peak: what filters add to x30
_FEWEST_PEAKS = 4  # six clean voices: two peaks at most are within a step of the largest; x1.5: five at least
# How many times as many flat blocks lie at one level as around it.
_PROMINENCE = 4.0
# A steady tone has its peaks at one level too, but then its crest factor is as steady: it spreads by 0.31 dB at most
# from 100 to 880 Hz; over the cut peaks of a voice, or its flat tops, by 0.55 dB at least.
_SPREAD_DB = 0.45


def block_length(rate: int) -> int:
    """Samples of a block, 0.25 ms; at least three, of which it can be told whether they are flat."""
    return max(3, round(rate * _BLOCK_SECONDS))


class ClippingMeter:
    """Two histograms: of the levels of peaks, to one step of 16 bits, and of the levels where the wave stays flat."""

    def __init__(self) -> None:
        self._last, self._last_rms = np.zeros(2, np.int32), 0.0
        # Positive and negative peaks by level: count, sum of crest factors in dB, sum of their squares.
        self._peaks = np.zeros((2, 3, _STEPS))
        self._blocks = np.zeros(_N_BINS, np.int64)  # all, by level
        self._flat = np.zeros((3, _N_BINS))  # the flat ones: count, sum of crest factors in dB, sum of their squares

    def push(self, frames: np.ndarray, rms: np.ndarray) -> None:
        """Takes the next frames (n, BLOCKS * block) without gap, and the level of each (n,)."""
        if not len(frames):
            return
        steps = np.clip(np.rint(frames.ravel() * 32768), -_STEPS, _STEPS).astype(np.int32)
        self._count_peaks(np.append(self._last, steps), np.append(self._last_rms, rms), frames.shape[1])
        self._last, self._last_rms = steps[-2:], rms[-1]
        columns = frames.reshape(len(frames) * BLOCKS, frames.shape[1] // BLOCKS).T
        high, low = columns[0], columns[0]
        for column in columns[1:]:
            high, low = np.maximum(high, column), np.minimum(low, column)
        level = np.maximum(np.maximum(high, -low), 1e-6)
        bins = np.clip(np.rint(-20 * _BINS_PER_DB * np.log10(level)).astype(int) + _TOP_BIN, 0, _N_BINS - 1)
        self._blocks += np.bincount(bins, minlength=_N_BINS)
        is_flat = np.flatnonzero(high - low < _FLAT * level)
        crest = 20 * np.log10(level[is_flat] / np.maximum(rms[is_flat // BLOCKS], 1e-9))
        for row, weights in zip(self._flat, (None, crest, crest**2), strict=True):
            row += np.bincount(bins[is_flat], weights, minlength=_N_BINS)

    def _count_peaks(self, steps: np.ndarray, rms: np.ndarray, frame_length: int) -> None:
        """Takes two samples of before and the next ones, and the level of the frame before and of the next ones."""
        before, here, after = steps[:-2], steps[1:-1], steps[2:]
        for sums, sign in zip(self._peaks, (1, -1), strict=True):
            rises = here > before if sign > 0 else here < before
            turns = here >= after if sign > 0 else here <= after
            at = np.flatnonzero(rises & turns)
            levels = np.clip(sign * here[at], 0, _STEPS - 1)
            is_loud = levels > levels.max(initial=1) // 2  # of this block: what is less is not looked at in the end
            at, levels = at[is_loud], levels[is_loud]
            crest = 20 * np.log10(levels / 32768 / np.maximum(rms[(at - 1) // frame_length + 1], 1e-9))
            for row, weights in zip(sums, (None, crest, crest**2), strict=True):
                row += np.bincount(levels, weights, minlength=_STEPS)

    def clipped(self) -> float:
        """Share of the loud peaks (above half of the largest) that end at the largest, to one step of 16 bits."""
        n_top = n_loud = 0
        for sums in self._peaks:
            largest = int(np.flatnonzero(sums[0])[-1]) if sums[0].any() else 0
            count, total, squares = sums[:, largest - (largest > 1000) :].sum(1)
            n_loud += sums[0, largest // 2 + 1 :].sum()
            if count > 1 and _is_cut(count, total, squares):
                n_top += count - 1
        return float(n_top / n_loud) if n_top >= _FEWEST_PEAKS else 0.0

    def flattened(self) -> float:
        """Share of the loud time in which the wave stays flat at one level; 0 where no level stands out.

        flat blocks        above   at        between   below
        by level  louder <------|window 1 dB|  0.5 dB |  2 dB  |
        """
        if not self._blocks.any():
            return 0.0
        first = int(np.flatnonzero(self._blocks)[0])
        sums = np.concatenate([np.zeros((3, 1)), np.cumsum(self._flat, 1)], 1)
        best, share, wide, gap = _PROMINENCE, 0.0, _BINS_PER_DB, _BINS_PER_DB // 2
        for at in range(first, min(first + _RANGE_BINS, _N_BINS - 4 * wide)):
            count, total, squares = sums[:, at + wide] - sums[:, at]
            above = sums[0, at]
            below = (sums[0, at + 3 * wide + gap] - sums[0, at + wide + gap]) / 2
            prominence = count / (above + below + 3)
            if prominence < best:
                continue
            if _is_cut(count, total, squares):
                n_loud = self._blocks[: at + wide + 6 * _BINS_PER_DB].sum()  # from 6 dB below on
                best, share = prominence, float(count / n_loud)
        return share


def _is_cut(count: float, total: float, squares: float) -> bool:
    """Whether peaks at one level are cut off, by their crest factors in dB: those of a steady tone are equal."""
    return max(0.0, squares / count - (total / count) ** 2) ** 0.5 >= _SPREAD_DB
