"""How the channels of a file become one, decided over the whole of it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from modules.audio.blocks import checked_blocks
from modules.audio.decoding import open_sound
from modules.errors import AudioError

MOST_CHANNELS = 32  # of an array: it says no more than its shape
_CANCELLED = 10 ** (-10 / 10)  # power of the mix over that of the louder channel, below which they cancel each other
_SILENT = 10 ** (-40 / 10)  # power of a channel over that of the loudest, below which it carries no sound


class MonoFile:
    """A file as mono: rate, notes, and its samples as often as they are wanted."""

    def __init__(self, path: Path) -> None:
        """Opens the file, and reads it once where it has several channels; an AudioError where that cannot be done."""
        self.path, self._sound = path, open_sound(path)
        self.rate, self.channels = self._sound.rate, self._sound.channels
        self.n_samples = self._sound.n_samples  # None until it is known
        self._weights = np.ones(1, np.float32)
        if self.channels > 1:
            self._weigh()

    @property
    def notes(self) -> tuple[str, ...]:
        """What is unusual about it, without its name; complete once it has been read to its end."""
        return tuple(self._sound.notes)

    def blocks(self, seconds: float = 10.0) -> Iterator[np.ndarray]:
        """(T,) float32 blocks of that length, the last one shorter; an AudioError where damage is reached."""
        size, held, n_held = max(1, int(seconds * self.rate)), [], 0
        for block in self._checked():
            mono = _mix(block, self._weights)
            held.append(mono)
            n_held += len(mono)
            if n_held >= size:
                joined = np.concatenate(held)
                whole = len(joined) // size * size
                yield from np.split(joined[:whole], whole // size)
                held, n_held = [joined[whole:]], len(joined) - whole
        if n_held:
            yield np.concatenate(held)

    def _checked(self) -> Iterator[np.ndarray]:
        """(n, channels) blocks whose samples are numbers."""
        done = 0
        for block in checked_blocks(self._sound, self.path):
            done += len(block)
            yield block
        if not done:
            raise AudioError(f"{self.path}: holds no samples")
        self.n_samples = done

    def _weigh(self) -> None:
        """Chooses how much of each channel is taken, by the powers of the channels and of their sum."""
        total, products = np.zeros(self.channels), np.zeros((self.channels, self.channels))
        for block in self._checked():
            wide = block.astype(np.float64)
            total += wide.sum(axis=0)
            products += wide.T @ wide
        powers = products / self.n_samples - np.outer(total, total) / self.n_samples**2  # without constant offsets
        self._weights, text = choose_weights(powers)
        if text:
            self._sound.note(text)


def to_mono(wav: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """A clip in memory as (T,) float32, its channels made one as those of a file, and what is unusual about it.

    It is (T,), or (T, C) or (C, T) of up to `MOST_CHANNELS`, the shorter side; floats in [-1, 1], or integers as PCM.
    """
    integers = np.issubdtype(wav.dtype, np.signedinteger)
    if not (integers or np.issubdtype(wav.dtype, np.floating)):
        raise AudioError(f"the audio is an array of {wav.dtype}; expected floats in [-1, 1], or int16 or int32")
    if integers:
        wav = wav / -float(np.iinfo(wav.dtype).min)
    wav = wav.astype(np.float32, copy=False)
    if wav.ndim == 1:
        return wav, ()
    if wav.ndim != 2 or not 0 < min(wav.shape) <= MOST_CHANNELS or wav.shape[0] == wav.shape[1]:
        raise AudioError(
            f"the audio has shape {wav.shape}; expected (T,), or (T, C) or (C, T) with up to {MOST_CHANNELS} channels"
        )
    wav = wav if wav.shape[0] > wav.shape[1] else wav.T
    if wav.shape[1] == 1:
        return wav[:, 0], ()
    weights, note = choose_weights(np.cov(wav, rowvar=False, bias=True, dtype=np.float64))
    return _mix(wav, weights), (note,) if note else ()


def _mix(wav: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(T, C) to (T,); equal parts of all channels as their mean."""
    if len(weights) == 1:
        return wav[:, 0]
    is_mean = np.all(weights == np.float32(1 / len(weights)))
    return wav.mean(axis=1, dtype=np.float32) if is_mean else wav @ weights


def choose_weights(powers: np.ndarray) -> tuple[np.ndarray, str | None]:
    """How much of each channel is taken, (C,) float32, and what to say about it.

    Stereo gives its mean, as ever. A channel without sound does not count, so a voice on one side keeps its level;
    where channels cancel each other, the loudest is taken alone; more than two get the level of the loudest.

    Args:
        powers: (C, C), mean products of each two channels, their means taken out.
    """
    n, own = len(powers), np.diag(powers)
    mean = np.full(n, 1 / n, np.float32)
    loudest = int(np.argmax(own >= 0.99 * own.max()))  # of equal ones the first
    if own[loudest] <= 0:
        return mean, None
    carries = (own > _SILENT * own[loudest]).astype(np.float64)
    count = int(carries.sum())
    alone = np.eye(n, dtype=np.float32)[loudest]
    name = ("left", "right")[loudest] if n == 2 else f"number {loudest + 1} of {n}"
    mixed = float(carries @ powers @ carries)  # power of the sum
    if count == 1:
        return alone, f"only one of its channels, the {name}, carries sound; it was taken alone"
    if mixed < 4 * _CANCELLED * own[loudest]:  # 4: of two channels the mean is taken, not the sum
        return alone, f"its channels cancel each other; the loudest, the {name}, was taken alone"
    if n == 2:
        return mean, None
    return (carries * np.sqrt(own[loudest] / mixed)).astype(np.float32), None
