"""A sound with all its channels, read as often as needed and never held whole."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from modules.audio.blocks import checked_blocks
from modules.audio.decoding import open_sound
from modules.errors import AudioError

_BLOCK = 1 << 16  # samples per channel, at least
_LEAST_SHARE = 0.1  # of the level of the channels that the level of their mean counts as


class SoundFile:
    """A file that has been read to its end once: all of it can be decoded, and its length is known.

    Attributes:
        rate: Hz.
        mean: of the mean of its channels, as is `deviation`, by which networks normalise.
        notes: what is unusual about it, without its name.
    """

    def __init__(self, path: Path) -> None:
        """Reads it; an AudioError where that cannot be done."""
        self.path, self._sound = path, open_sound(path)
        self.rate, self.channels = self._sound.rate, self._sound.channels
        self.n_samples, total, square, power = 0, 0.0, 0.0, 0.0
        for block in self.blocks():
            mono = block.mean(axis=1, dtype=np.float64)
            self.n_samples += len(block)
            total, square = total + mono.sum(), square + np.dot(mono, mono)
            power += np.einsum("tc,tc->", block, block, dtype=np.float64) / self.channels
        if not self.n_samples:
            raise AudioError(f"{path}: holds no samples")
        self.mean = total / self.n_samples
        level = np.sqrt(power / self.n_samples)  # where channels cancel each other, their mean says nothing
        self.deviation = max(np.sqrt(max(0.0, square / self.n_samples - self.mean**2)), _LEAST_SHARE * level)
        self.notes = tuple(self._sound.notes)

    def blocks(self) -> Iterator[np.ndarray]:
        """(n, channels) float32 of some seconds, from the start; an AudioError where damage is reached."""
        held, n_held = [], 0
        for block in checked_blocks(self._sound, self.path):
            held.append(block)
            n_held += len(block)
            if n_held >= _BLOCK:
                yield np.concatenate(held)
                held, n_held = [], 0
        if n_held:
            yield np.concatenate(held)


class Reader:
    """A stream of (n, C) blocks, taken in pieces of any length; behind its end there is silence."""

    def __init__(self, blocks: Iterable[np.ndarray], channels: int) -> None:
        self._blocks, self._held = iter(blocks), np.zeros((0, channels), np.float32)

    def take(self, size: int) -> np.ndarray:
        """The next `size` samples."""
        parts, there = [self._held], len(self._held)
        while there < size and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            there += len(block)
        joined = np.concatenate(parts)
        self._held = joined[size:]
        return np.pad(joined[:size], ((0, max(0, size - there)), (0, 0)))
