"""Pieces with overlap: where forced pieces lie, and how two neighbours are joined.

All functions work on the overlap alone, so a stream can be joined while it is written.
"""

import numpy as np


def split_forced(length: int, piece: int, overlap: int) -> list[tuple[int, int]]:
    """Spans of forced pieces: each starts `overlap` before the last one ends.

        length 1000, piece 300, overlap 50:   0-300   250-600   550-900   850-1000

    Args:
        length: samples to cover.
        piece: samples from one piece's start (without its overlap) to the next.
        overlap: samples that two neighbours share.

    Returns:
        (start, end) pairs that cover 0 to length.
    """
    spans = []
    for start in range(0, length, piece):
        first = start - overlap if start >= overlap else start
        spans.append((first, min(start + piece, length)))
    return spans


def crossfade(tail: np.ndarray, head: np.ndarray, overlap: int, retain: float) -> np.ndarray:
    """Joins two pieces linearly in the middle share of their overlap.

        tail   ########\\____          retain = middle share; where it is 1 the ramp fills the overlap
        head   ____/########
               | l |  r  | c |        l from the tail, r mixed, c from the head

    Args:
        tail: last `overlap` samples of the piece before.
        head: first `overlap` samples of the piece after.
        overlap: samples.
        retain: share of the overlap that is mixed, 0 to 1.

    Returns:
        (overlap,) samples.
    """
    mixed = int(overlap * retain)
    left = (overlap - mixed) // 2
    ramp = np.linspace(0, 1, mixed, dtype=np.float32)
    middle = tail[left : left + mixed] * (1 - ramp) + head[left : left + mixed] * ramp
    return np.concatenate([tail[:left], middle, head[left + mixed :]]).astype(np.float32, copy=False)


def join_pieces(tail: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Joins two renderings of the same moment over their whole overlap with the law that keeps the level.

    Equal gain (weights sum to 1) keeps the level of equal signals, equal power (squares sum to 1) of unrelated ones.
    The same network renders both sides from the same pitch, so they are mostly equal but never quite: with the
    correlation c between the two, weights a and b keep the power when a^2 + b^2 + 2abc = 1. The linear ramp is scaled
    to that.

    Args:
        tail: (T,) end of the piece before.
        head: (T,) start of the piece after, the same moment.

    Returns:
        (T,) samples.
    """
    n_samples = len(tail)
    rise = (np.arange(n_samples, dtype=np.float64) + 0.5) / max(n_samples, 1)
    fall = 1 - rise
    energy = float(np.dot(tail, tail)) * float(np.dot(head, head))
    correlation = float(np.dot(tail, head)) / np.sqrt(energy) if energy > 0 else 1.0
    # Below zero the two cancel and no gain would help: treat them as unrelated.
    level = np.sqrt(fall**2 + rise**2 + 2 * fall * rise * min(max(correlation, 0.0), 1.0))
    return ((tail * fall + head * rise) / level).astype(np.float32)
