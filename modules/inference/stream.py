"""The input of a conversion, read twice from start to end: once for its loudness, once stretch by stretch.

Neither pass holds more than one block of audio and what the current stretch needs, so length costs no memory.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modules.audio import io
from modules.audio.slicer import RmsMeter
from modules.errors import AudioError

BLOCK_SECONDS = 10.0
LOWEST_RATE = 1000  # Hz


@dataclass(frozen=True)
class Source:
    """Audio that can be read more than once.

    Args:
        name: what messages call it.
        rate: Hz.
        seconds: length as announced, for the progress bar; the real one is counted.
        open_blocks: gives the audio from its start, as (T,) float32 mono blocks.
    """

    name: str
    rate: int
    seconds: float
    open_blocks: Callable[[], Iterable[np.ndarray]]


def file_source(path: Path) -> Source:
    """A file of any format that soundfile reads, as a source.

    Raises:
        AudioError: missing, empty or not audio.
    """
    info = io.probe(path)
    return Source(str(path), info.rate, info.seconds, lambda: io.read_blocks(path, BLOCK_SECONDS))


def array_source(wav: np.ndarray, rate: int) -> Source:
    """A clip in memory as a source.

    Args:
        wav: (T,) float32.
        rate: Hz.

    Raises:
        AudioError: not one-dimensional, empty, or of an impossible rate.
    """
    if wav.ndim != 1 or not len(wav):
        raise AudioError(f"the audio has shape {wav.shape}; expected one mono channel (T,) that is not empty")
    if rate < LOWEST_RATE:
        raise AudioError(f"the audio's rate is {rate} Hz; expected at least {LOWEST_RATE}")
    wav = np.ascontiguousarray(wav, dtype=np.float32)
    step = int(BLOCK_SECONDS * rate)
    return Source("audio", rate, len(wav) / rate, lambda: (wav[at : at + step] for at in range(0, len(wav), step)))


@dataclass(frozen=True)
class Survey:
    """What the first pass finds.

    Args:
        n_samples: real length of the input.
        rms: loudness, one value every `rms_hop` samples.
        rms_hop: samples between two values.
        gain: factor that brings the peak down to 1; 1 where the peak is not above it.
    """

    n_samples: int
    rms: np.ndarray
    rms_hop: int
    gain: float


def survey(source: Source) -> Survey:
    """Reads a source once and keeps one loudness value per 20 ms.

    Raises:
        AudioError: a sample is not finite (its time is named), or there is none.
    """
    meter = RmsMeter(source.rate)
    n_samples, peak = 0, 0.0
    for block in source.open_blocks():
        if not np.isfinite(block).all():
            seconds = (n_samples + int(np.argmin(np.isfinite(block)))) / source.rate
            raise AudioError(
                f"{source.name}: the sample at {seconds:.3f} s is not a finite number. Export the file again."
            )
        meter.push(block)
        n_samples += len(block)
        peak = max(peak, float(np.abs(block).max(initial=0.0)))
    if n_samples == 0:
        raise AudioError(f"{source.name}: holds no audio")
    gain = 1.0 / peak if peak > 1.0 else 1.0
    return Survey(n_samples, meter.finish() * gain, meter.hop_length, gain)


class Window:
    """Sequential reading of any ascending ranges, holding only what is asked for.

    Args:
        source: what to read.
        gain: factor on every sample.
    """

    def __init__(self, source: Source, gain: float = 1.0) -> None:
        self.name = source.name
        self._blocks: Iterator[np.ndarray] = iter(source.open_blocks())
        self._gain = np.float32(gain)
        self._held: list[np.ndarray] = []
        self._start = 0  # position of the first held sample
        self._stop = 0  # one past the last held sample

    def read(self, start: int, stop: int) -> np.ndarray:
        """Samples `start` to `stop` as (T,) float32; what lies before `start` is forgotten.

        Args:
            start: first sample, never smaller than in the call before.
            stop: one past the last.

        Raises:
            AudioError: the audio ends earlier than it did in the first pass.
        """
        assert start >= self._start, "ranges must ascend"
        self._forget(start)
        while self._stop < stop:
            block = next(self._blocks, None)
            if block is None:
                raise AudioError(f"{self.name}: ended early while it was read; it changed during the conversion")
            self._held.append(block)
            self._stop += len(block)
            self._forget(start)
        joined = np.concatenate([np.zeros(0, np.float32), *self._held])
        return joined[start - self._start : stop - self._start] * self._gain

    def _forget(self, start: int) -> None:
        """Drops whole blocks that end at or before `start`."""
        while self._held and self._start + len(self._held[0]) <= start:
            self._start += len(self._held.pop(0))
        if not self._held:
            self._start = self._stop
