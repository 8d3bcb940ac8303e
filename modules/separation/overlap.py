"""Overlapping segments of a stream through a network, joined by weighted overlap-add."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np


def make_window(segment: int, fade: int) -> np.ndarray:
    """(segment,) float32 weights: 1 in the middle, falling linearly over `fade` samples at both ends, never to zero."""
    position = np.arange(segment)
    return np.minimum(1.0, (np.minimum(position, position[::-1]) + 1) / max(1, fade)).astype(np.float32)


def overlap_add(
    blocks: Iterable[np.ndarray],
    compute: Callable[[list[np.ndarray]], list[np.ndarray]],
    window: np.ndarray,
    hop: int,
    batch: int = 1,
    start: int = 0,
) -> Iterator[np.ndarray]:
    """What a network makes of a stream of any length, from the sample `start` on, in blocks of `hop` samples.

        stream     |------------------------------------|
        segment 0  /=========\\
        segment 1        /=========\\
        segment 2              /=========\\
        the last                   ~~~/=================|   reads a whole segment too; ~ has no weight

    Divided by the sum of their weights, segments that `compute` gives back unchanged are the stream again.

    Args:
        blocks: (n, C) float32 of any length, from the stream's first sample.
        compute: (len(window), C) each, of as many segments as it gets; a stream shorter than one ends in zeros.
        batch: most segments that `compute` gets at once.
        start: multiple of `hop`; what is before it is computed only as far as it overlaps.
    """
    segment, overlapping = len(window), _WeightedSum(window)
    index = max(0, start // hop - -(-segment // hop) + 1)  # of the first segment that reaches beyond `start`
    held, offset = None, 0  # the samples that are still needed; where in the stream they start
    waiting: list[np.ndarray] = []

    def join() -> Iterator[np.ndarray]:
        nonlocal index
        for out in compute(waiting) if waiting else ():
            overlapping.add(out)
            done = overlapping.take(hop)
            if index * hop >= start:
                yield done
            index += 1
        waiting.clear()

    for block in blocks:
        held = block if held is None else np.concatenate([held, block])
        # Only a segment with samples behind it is not the last.
        while offset + len(held) > (at := (index + len(waiting)) * hop) + segment:
            waiting.append(held[at - offset : at - offset + segment])
            if len(waiting) == batch:
                yield from join()
        unused = min(len(held), max(0, (index - 1) * hop - offset))  # the last one may start up to a hop earlier
        held, offset = held[unused:], offset + unused
    if held is None or not offset + len(held):
        return
    yield from join()
    last = held[-segment:]
    padded = np.pad(last, ((0, segment - len(last)), (0, 0)))
    rest = offset + len(held) - index * hop
    overlapping.add(compute([padded])[0][len(last) - rest : len(last)])
    yield overlapping.take(rest)[max(0, start - index * hop) :]


class _WeightedSum:
    """The sum of overlapping segments over the sum of their weights."""

    def __init__(self, window: np.ndarray) -> None:
        self._window = window
        self._total, self._weight = np.zeros((len(window), 1), np.float32), np.zeros((len(window), 1), np.float32)

    def add(self, out: np.ndarray) -> None:
        """Adds a segment, or its first part, at the start of what has not been taken."""
        if self._total.shape[1] != out.shape[1]:
            self._total = np.zeros((len(self._window), out.shape[1]), np.float32)
        weight = self._window[: len(out), None]
        self._total[: len(out)] += weight * out
        self._weight[: len(out)] += weight

    def take(self, size: int) -> np.ndarray:
        """The first `size` samples, to which no later segment adds anything."""
        done = self._total[:size] / self._weight[:size]
        for kept in (self._total, self._weight):
            kept[: len(kept) - size] = kept[size:].copy()
            kept[len(kept) - size :] = 0
        return done
