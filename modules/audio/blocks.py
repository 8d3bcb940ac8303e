"""Sounds in blocks of (n, channels): checked, and at another rate; never whole in memory."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import soxr

from modules.audio.sound import Sound
from modules.errors import AudioError


def checked_blocks(sound: Sound, path: Path) -> Iterator[np.ndarray]:
    """(n, channels) float32 of an open sound, whose samples are numbers; else an AudioError that says where."""
    done = 0
    for block in sound.blocks():
        if not np.isfinite(block).all():
            at = (done + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])) / sound.rate
            problem = f"has samples that are not numbers (NaN or infinity), the first at {at:.2f} s"
            raise AudioError(f"{path}: {problem}")
        done += len(block)
        yield block


def resampled(blocks: Iterable[np.ndarray], from_rate: int, to_rate: int, channels: int) -> Iterator[np.ndarray]:
    """A stream of (n, C) float32 at another rate, by soxr at its high quality; at the same rate as it is."""
    if from_rate == to_rate:
        yield from blocks
        return
    stream = soxr.ResampleStream(from_rate, to_rate, channels, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(np.ascontiguousarray(block)).reshape(-1, channels)
    yield stream.resample_chunk(np.zeros((0, channels), np.float32), last=True).reshape(-1, channels)
