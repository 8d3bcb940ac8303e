"""Whether there is a tone at a moment: a note or a voiced sound, at any level, and not noise or breath."""

import numpy as np

LOWEST, HIGHEST = 60, 400  # Hz; the tone of a higher note also repeats after some of its periods
_ANALYSIS_RATE = 8000  # Hz, at least; nothing above half of it makes a note
_BATCH = 500  # windows at once


class ToneMeter:
    """Periodicity of a stream, one value each hop, whatever the sizes of the blocks it comes in."""

    def __init__(self, rate: int, hop_length: int) -> None:
        self._step = max(1, rate // _ANALYSIS_RATE)  # samples that become one
        self._rate, self._hop = rate / self._step, hop_length
        self._rest = np.zeros(hop_length, np.float32)  # the first window is centred on the first sample
        self._values: list[np.ndarray] = []

    def push(self, block: np.ndarray) -> None:
        """Takes the next (T,) samples."""
        joined = np.concatenate([self._rest, block])
        n_windows = max(0, len(joined) // self._hop - 1)
        if n_windows:
            views = np.lib.stride_tricks.sliding_window_view(joined, 2 * self._hop)[:: self._hop][:n_windows]
            self._values += [self._measure(views[at : at + _BATCH]) for at in range(0, n_windows, _BATCH)]
        self._rest = joined[n_windows * self._hop :].copy()

    def finish(self) -> np.ndarray:
        """0 (noise) to 1 (a tone): (n_samples // hop_length + 1,), windows of two hops centred on each hop's first."""
        self.push(np.zeros(self._hop, np.float32))
        return np.concatenate(self._values)

    def _measure(self, windows: np.ndarray) -> np.ndarray:
        """Largest correlation of each window (W, 2 hops) with itself between the longest and the shortest period later.

        For each lag of the parts that overlap, a and b:   sum a b / sqrt(sum a^2 sum b^2)
        """
        n_samples = windows.shape[1] // self._step
        slow = windows[:, : n_samples * self._step].reshape(len(windows), n_samples, self._step).mean(axis=2)
        slow = np.diff(slow.astype(np.float64), axis=1)  # else rumble, which changes slowly, would be a tone
        first, last = int(self._rate / HIGHEST), int(self._rate / LOWEST)
        size = slow.shape[1]
        spectrum = np.fft.rfft(slow, 1 << (size + last).bit_length())
        products = np.fft.irfft(spectrum.real**2 + spectrum.imag**2)[:, first : last + 1]
        energy = np.cumsum(slow**2, axis=1)
        lags = np.arange(first, last + 1)
        early, late = energy[:, size - lags - 1], energy[:, -1:] - energy[:, lags - 1]
        return (products / np.sqrt(np.maximum(early * late, 1e-20))).max(axis=1).clip(0, 1).astype(np.float32)
