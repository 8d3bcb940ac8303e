"""Chunks with overlap: where forced chunks lie, and how two neighbours are joined on their overlap alone."""

import numpy as np


def split_forced(length: int, chunk: int, overlap: int) -> list[tuple[int, int]]:
    """(start, end) of forced chunks that cover 0 to `length`, in samples; each starts `overlap` before the last ends.

    length 1000, chunk 300, overlap 50:   0-300   250-600   550-900   850-1000
    """
    starts = range(0, length, chunk)
    return [(start - overlap if start >= overlap else start, min(start + chunk, length)) for start in starts]


def crossfade(tail: np.ndarray, head: np.ndarray, overlap: int, retain: float) -> np.ndarray:
    """Joins two chunks linearly in the middle share of their overlap; all three are (overlap,) samples.

    tail   ########\\____          retain = middle share; where it is 1 the ramp fills the overlap
    head   ____/########
           | l |  r  | c |        l from the tail, r mixed, c from the head
    """
    mixed = int(overlap * retain)
    left = (overlap - mixed) // 2
    ramp = np.linspace(0, 1, mixed, dtype=np.float32)
    middle = tail[left : left + mixed] * (1 - ramp) + head[left : left + mixed] * ramp
    return np.concatenate([tail[:left], middle, head[left + mixed :]]).astype(np.float32, copy=False)


def join_pieces(tail: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Joins the end of a chunk (T,) and the start of the next (T,) over their whole overlap, at a constant level.

    Weights a and b keep the power of two signals of correlation c when a^2 + b^2 + 2abc = 1: the ramp is scaled to it.
    """
    n_samples = len(tail)
    rise = (np.arange(n_samples, dtype=np.float64) + 0.5) / max(n_samples, 1)
    fall = 1 - rise
    energy = float(np.dot(tail, tail)) * float(np.dot(head, head))
    correlation = float(np.dot(tail, head)) / np.sqrt(energy) if energy > 0 else 1.0
    # Below zero the two cancel and no gain would help: treat them as unrelated.
    level = np.sqrt(fall**2 + rise**2 + 2 * fall * rise * min(max(correlation, 0.0), 1.0))
    return ((tail * fall + head * rise) / level).astype(np.float32)
