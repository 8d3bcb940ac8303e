"""A stream of blocks to frames, whatever the sizes of the blocks."""

import numpy as np


class Framer:
    """Cuts a stream into frames of `length` samples, one every `hop` samples; what remains at the end is left out."""

    def __init__(self, length: int, hop: float) -> None:
        self.length = length
        self.hop = hop  # need not be whole: frame i starts at sample round(i * hop)
        self._rest = np.zeros(0, np.float32)
        self._at = 0  # sample of the stream where the rest starts
        self._done = 0  # frames that were given

    def push(self, block: np.ndarray) -> np.ndarray:
        """The frames that the next (T,) samples complete: (n, length) float32, not to be written to."""
        joined = np.concatenate([self._rest, block]) if len(self._rest) else block
        most = max(0, int((len(joined) - self.length) / self.hop) + 2)
        starts = np.rint((self._done + np.arange(most)) * self.hop).astype(np.int64) - self._at
        starts = starts[starts + self.length <= len(joined)]
        self._done += len(starts)
        following = min(len(joined), round(self._done * self.hop) - self._at)
        self._rest, self._at = joined[following:].copy(), self._at + following
        if not len(starts):
            return np.zeros((0, self.length), np.float32)
        if self.hop == self.length:
            return joined[: len(starts) * self.length].reshape(-1, self.length)
        return np.lib.stride_tricks.sliding_window_view(joined, self.length)[starts]
