"""A song of any length, read from start to end: to measure it, and again chunk by chunk.

Neither pass holds more than one block of audio and what the current chunk needs, so length costs no memory.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from modules.audio.mono import MonoFile
from modules.audio.slicer import RmsMeter
from modules.errors import AudioError

BLOCK_SECONDS = 10.0
LARGEST_OFFSET = 0.01  # of the mean from zero, as much as the quietest sound that counts as voice
LOWEST_RATE = 1000  # Hz


class Song:
    """Audio that has been measured and can be read in ascending ranges, once, or again after `rewind`."""

    def __init__(
        self,
        name: str,
        rate: int,
        out_rate: int,
        open_blocks: Callable[[], Iterable[np.ndarray]],
        notes: Callable[[], tuple[str, ...]] = tuple,
    ) -> None:
        """Measures what `open_blocks` gives from the start of the audio: (T,) float32 mono blocks, again at each call.

        `notes` gives what was found unusual in the file, once it has been read to its end.
        """
        self.name, self.rate, self.out_rate = name, rate, out_rate  # for messages; Hz; Hz of the conversion
        self._open_blocks, self._offset = open_blocks, np.float32(0)
        mean, peak = self._measure()
        self.notes = notes()  # for the user, without the name
        if abs(mean) > LARGEST_OFFSET:
            self._offset = np.float32(mean)
            _, peak = self._measure()
            self.notes += (f"it lies on a constant offset of {mean:.2f}, which was taken out",)
        self.gain = 1.0 / peak if peak > 1.0 else 1.0  # brings the peak down to 1
        self.rms *= self.gain
        self._blocks = self._centred()
        self._held: list[np.ndarray] = []
        self._start = self._stop = 0  # positions of the first held sample and behind the last

    @classmethod
    def from_file(cls, path: Path, out_rate: int) -> "Song":
        """A file of any format that can be decoded; an `AudioError` where it is missing, empty or not audio."""
        file = MonoFile(path)
        return cls(str(path), file.rate, out_rate, lambda: file.blocks(BLOCK_SECONDS), lambda: file.notes)

    @classmethod
    def from_array(cls, wav: np.ndarray, rate: int, out_rate: int, notes: tuple[str, ...] = ()) -> "Song":
        """A clip (T,) in memory, `notes` say what is unusual about it; an `AudioError` where it is not one-dimensional,
        empty, or of an impossible rate."""
        if wav.ndim != 1 or not len(wav):
            raise AudioError(f"the audio has shape {wav.shape}; expected one mono channel (T,) that is not empty")
        if rate < LOWEST_RATE:
            raise AudioError(f"the audio's rate is {rate} Hz; expected at least {LOWEST_RATE}")
        wav = np.ascontiguousarray(wav, dtype=np.float32)
        step = int(BLOCK_SECONDS * rate)
        return cls(
            "audio", rate, out_rate, lambda: (wav[at : at + step] for at in range(0, len(wav), step)), lambda: notes
        )

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.n_samples / self.rate

    def at(self, position: int) -> int:
        """The output sample of an input sample, exact; output lengths are differences of two such positions."""
        return -(-position * self.out_rate // self.rate)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Samples `start` to `stop` as (T,) float32; what lies before `start` is forgotten, so `start` never falls."""
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
        return joined[start - self._start : stop - self._start] * np.float32(self.gain)

    def rewind(self) -> None:
        """Begins again at its start."""
        self._blocks, self._held, self._start, self._stop = self._centred(), [], 0, 0

    def _centred(self) -> Iterator[np.ndarray]:
        """The blocks without the constant offset."""
        for block in self._open_blocks():
            yield block - self._offset if self._offset else block

    def _measure(self) -> tuple[float, float]:
        """Reads it to the end: length, loudness; returns its mean and its largest magnitude."""
        meter, peak, total, self.n_samples = RmsMeter(self.rate), 0.0, 0.0, 0
        for block in self._centred():
            if not np.isfinite(block).all():
                seconds = (self.n_samples + int(np.argmin(np.isfinite(block)))) / self.rate
                raise AudioError(
                    f"{self.name}: the sample at {seconds:.3f} s is not a finite number. Export the file again."
                )
            meter.push(block)
            self.n_samples += len(block)
            total += float(block.sum(dtype=np.float64))
            peak = max(peak, float(np.abs(block).max(initial=0.0)))
        if self.n_samples == 0:
            raise AudioError(f"{self.name}: holds no audio")
        self.rms, self.rms_hop = meter.finish(), meter.hop_length  # (n,) loudness each `rms_hop` samples
        return total / self.n_samples, peak

    def _forget(self, start: int) -> None:
        """Drops whole blocks that end at or before `start`."""
        while self._held and self._start + len(self._held[0]) <= start:
            self._start += len(self._held.pop(0))
        if not self._held:
            self._start = self._stop
