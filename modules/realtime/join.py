"""Joins of blocks: where the next block continues the last one best, and the cross-fade there."""

import numpy as np

from modules.audio.crossfade import join_pieces

# By how much another place must correlate better than the one in the middle, where the blocks lie as they were heard.
WORTH_A_SHIFT = 0.1


def find_offset(tail: np.ndarray, wav: np.ndarray) -> int:
    """Where in `wav` (X + 2 S,) the `tail` (X,) of what came before continues best: 0 to 2 S, S for no shift.

    The place of the largest normalised cross-correlation, as in the synchronised overlap-add (SOLA) of
    Roucos and Wilgus, "High quality time-scale modification for speech", 1985, ICASSP, equation 8; the middle where it
    is as good, or where there is nothing to compare.
    """
    middle = (len(wav) - len(tail)) // 2
    products = np.correlate(wav.astype(np.float64), tail.astype(np.float64), "valid")
    squares = np.concatenate([[0.0], np.cumsum(wav.astype(np.float64) ** 2)])
    energies = squares[len(tail) :] - squares[: len(products)]
    correlations = products / np.sqrt(np.maximum(energies * float(tail @ tail), 1e-12))
    best = int(np.argmax(correlations))
    return best if correlations[best] > correlations[middle] + WORTH_A_SHIFT else middle


class Joiner:
    """Puts blocks together; each is rendered with more on both sides.

    before     ==========|--- tail ---|
    rendered        |-S-||- X: mixed -|==== rest of the block ====|--- tail ---|-S-|
                    `---- the search moves the block by up to S to either side
    """

    def __init__(self, n_block: int, n_crossfade: int, n_search: int) -> None:
        self.n_block, self.n_crossfade, self.n_search = n_block, n_crossfade, n_search
        self.reset()

    def reset(self) -> None:
        """Forgets what came before: the first block rises from silence."""
        self._tail = np.zeros(self.n_crossfade, np.float32)

    def __call__(self, rendered: np.ndarray, may_shift: bool = True) -> np.ndarray:
        """The next block (n_block,) of `rendered` (S + n_block + X + S,). Where it may not shift it lies in the middle
        again, whatever earlier blocks did: noise joins anywhere."""
        start = self.n_search
        if may_shift and self._tail.any():
            start = find_offset(self._tail, rendered[: self.n_crossfade + 2 * self.n_search])
        stop, fade = start + self.n_block, self.n_crossfade
        mixed = join_pieces(self._tail, rendered[start : start + fade])
        self._tail = rendered[stop : stop + fade].copy()
        return np.concatenate([mixed, rendered[start + fade : stop]])
