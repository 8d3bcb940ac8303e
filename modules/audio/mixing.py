"""A voice put into its accompaniment: levels, places between the channels, and a limiter; block by block.

    mix = music (+ backing voices) + gains * voice        gains: one for each channel, from where the lead was

All are files of any rate, length and number of channels. They are read twice: for the peaks, then for the mix.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import numpy as np
from tqdm import tqdm

from modules.audio.blocks import checked_blocks, resampled
from modules.audio.decoding import open_sound
from modules.audio.io import StreamWriter, probe
from modules.text import printable

logger = logging.getLogger(__name__)

CEILING = 0.99  # of full scale; nothing in a mix is louder, and a mix that stays below passes as it is
SMALL_SECONDS = 0.02  # by which stems may differ in length without a word: what codecs add
_HOP_SECONDS = 0.005  # step of the limiter's gain
_SMOOTH_HOPS = 4  # to each side: its gain takes 45 ms to go down or up, too slow to be heard as distortion
_SILENT_POWER = 10 ** (-80 / 10)
_BLOCK_HOPS = 1000  # that are in memory at once


@dataclass(frozen=True)
class Form:
    """What all sounds of a mix are brought to."""

    rate: int  # Hz
    n_samples: int  # per channel
    channels: int

    @property
    def hop(self) -> int:
        """Step of the limiter's gain in samples."""
        return max(1, round(self.rate * _HOP_SECONDS))


def choose_form(first: Path, others: Sequence[Path]) -> Form:
    """The rate and the length of `first`, with the channels of the one that has most; logs what differs from it."""
    known, found = probe(first), [probe(path) for path in others]
    for path, about in zip(others, found):
        if about.rate != known.rate:
            logger.info("%s: %d Hz become %d, as %s has", path, about.rate, known.rate, first.name)
        longer = about.seconds - known.seconds
        if abs(longer) > SMALL_SECONDS:
            remedy = "its end is cut off" if longer > 0 else "silence is put behind it"
            text = "%s: is %.2f s %s than %s; %s. Do they belong together?"
            logger.warning(text, path, abs(longer), "longer" if longer > 0 else "shorter", first, remedy)
    return Form(known.rate, known.n_samples, max(about.channels for about in (known, *found)))


def voice_gains(voice: Path, lead: Path, form: Form, gain_db: float = 0.0) -> np.ndarray:
    """What the voice is multiplied by in each channel, (channels,) float32, to be there as loud as the lead was.

    So it also stays where the lead was: in the middle, or more to one side. What counts is where the voice sounds: what
    was left silent of the lead makes the rest no louder. The lead as its own voice gets ones.
    """
    found, wanted = np.zeros(form.channels), np.zeros(form.channels)
    for sung, led in zip(read_as(voice, form), read_as(lead, form), strict=True):
        starts = np.arange(0, len(sung), form.hop)
        energies = np.add.reduceat(np.square(sung, dtype=np.float64), starts)
        sounds = energies.sum(axis=1) > _SILENT_POWER * form.hop
        found += energies[sounds].sum(axis=0)
        wanted += np.add.reduceat(np.square(led, dtype=np.float64), starts)[sounds].sum(axis=0)
    gains = np.sqrt(np.divide(wanted, found, out=np.zeros_like(wanted), where=found > 0))
    return (gains * 10 ** (gain_db / 20)).astype(np.float32)


def mix(writer: StreamWriter, parts: Sequence[tuple[Path, np.ndarray | float]], form: Form) -> float:
    """Writes the sum of sounds, each times its gain, and returns its peak before the limiter.

    Args:
        writer: not entered yet, of the rate and the channels of `form`.
        parts: files, with a gain for all channels or one for each.
    """
    peaks, total, name = [], 2 * form.n_samples, printable(writer.path.name, 60)
    with tqdm(total=total // form.rate, unit="s", desc=name, leave=False, dynamic_ncols=True) as bar:
        for done, block in _counted(_sum_blocks(parts, form)):
            starts = np.arange(0, len(block), form.hop)
            peaks.append(np.maximum.reduceat(np.abs(block).max(axis=1), starts))
            bar.update(done // form.rate - bar.n)
        peaks = np.concatenate(peaks)
        gains = limiter_gains(peaks)
        with writer:
            for done, block in _counted(_sum_blocks(parts, form)):
                writer.write(block if gains is None else _limited(block, gains, done, form.hop))
                bar.update((form.n_samples + done) // form.rate - bar.n)
    return float(peaks.max())


def limiter_gains(peaks: np.ndarray) -> np.ndarray | None:
    """The limiter's gain at the middle of each hop, (hops,) float64, None where nothing is too loud.

        peaks            |   .       #       .
        lowest nearby  1 ------\\___________/------      5 hops to each side
        mean nearby    1 ----\\___          ___/---      4 hops to each side: at the peak it is all the lowest one

    A straight line between two middles is nowhere above what its hops need, since each has that in reach.
    """
    if not len(peaks) or peaks.max() <= CEILING:
        return None
    needed = np.minimum(1.0, CEILING / np.maximum(peaks.astype(np.float64), 1e-9))
    lowest = _nearby(needed, _SMOOTH_HOPS + 1).min(axis=1)
    return _nearby(lowest, _SMOOTH_HOPS).sum(axis=1) / (2 * _SMOOTH_HOPS + 1)  # of ones exactly one


def _nearby(values: np.ndarray, reach: int) -> np.ndarray:
    """(n, 2 * reach + 1): each value with its neighbours; beyond the ends the last one counts."""
    return np.lib.stride_tricks.sliding_window_view(np.pad(values, reach, "edge"), 2 * reach + 1)


def _limited(block: np.ndarray, gains: np.ndarray, start: int, hop: int) -> np.ndarray:
    middles = np.arange(len(gains)) * hop + (hop - 1) / 2
    places = slice(max(0, start // hop - 1), (start + len(block)) // hop + 2)
    gain = np.interp(np.arange(start, start + len(block)), middles[places], gains[places])
    return (block * gain[:, None]).astype(np.float32)


def _sum_blocks(parts: Sequence[tuple[Path, np.ndarray | float]], form: Form) -> Iterator[np.ndarray]:
    """The sum in (n, channels) float32 blocks."""
    for blocks in zip(*(read_as(path, form) for path, _ in parts), strict=True):
        yield sum(block * np.float32(gain) for block, (_, gain) in zip(blocks, parts))


def _counted(blocks: Iterator[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """Each block with the number of samples before it."""
    done = 0
    for block in blocks:
        yield done, block
        done += len(block)


def read_as(path: Path, form: Form) -> Iterator[np.ndarray]:
    """A file in (n, channels) float32 blocks of the form's rate, channels and length; the last block is shorter.

    A mono file is in all channels; channels that a file does not have are silent.
    """
    size, left = form.hop * _BLOCK_HOPS, form.n_samples
    held = np.zeros((0, form.channels), np.float32)
    silence = repeat(np.zeros((size, 1), np.float32))
    sound = open_sound(path)
    blocks = resampled(checked_blocks(sound, path), sound.rate, form.rate, sound.channels)
    for block in chain(blocks, silence):
        held = np.concatenate([held, _spread(block, form.channels)])
        while left and len(held) >= min(size, left):
            ready, held = np.split(held, [min(size, left)])
            left -= len(ready)
            yield ready
        if not left:
            return


def _spread(block: np.ndarray, channels: int) -> np.ndarray:
    if block.shape[1] == 1:
        return np.repeat(block, channels, axis=1)
    return np.pad(block, ((0, 0), (0, channels - block.shape[1])))
