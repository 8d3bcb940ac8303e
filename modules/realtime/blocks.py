"""From blocks of any size and rate to blocks of the engine's, and what each of them took."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import soxr

if TYPE_CHECKING:
    from modules.realtime.engine import Engine


# soxr's better qualities work on blocks of their own and hold back up to 60 ms. This one holds back 10 ms at most, is
# exact to 4e-6 up to 1 kHz, and cuts at 80 % of the band, above all that a voice needs.
QUALITY = "LQ"


class StreamResampler:
    """(T,) float32 blocks at another rate, by soxr; over a whole stream as long as it should be, to a sample."""

    def __init__(self, from_rate: int, to_rate: int) -> None:
        self.from_rate, self.to_rate = from_rate, to_rate
        self.n_in = self.n_out = 0  # samples so far
        is_same = from_rate == to_rate
        self._stream = None if is_same else soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality=QUALITY)

    def __call__(self, wav: np.ndarray) -> np.ndarray:
        """What can be said of the stream after the next (T,) samples."""
        out = wav if self._stream is None else self._stream.resample_chunk(np.ascontiguousarray(wav, np.float32))
        self.n_in, self.n_out = self.n_in + len(wav), self.n_out + len(out)
        return out

    @property
    def held_seconds(self) -> float:
        """What has come in and not yet gone out."""
        return max(0.0, self.n_in / self.from_rate - self.n_out / self.to_rate)


class BlockQueue:
    """Samples of any number in, blocks of one size out."""

    def __init__(self, n_block: int) -> None:
        self._n_block, self._held = n_block, np.zeros(0, np.float32)

    def push(self, wav: np.ndarray) -> Iterator[np.ndarray]:
        """The blocks that are complete with the next (T,) samples."""
        joined = np.concatenate([self._held, wav])
        whole = len(joined) // self._n_block * self._n_block
        self._held = joined[whole:]
        yield from joined[:whole].reshape(-1, self._n_block)


@dataclass
class BlockTimes:
    """How long blocks took, and how much later than it came in a sound goes out."""

    block_seconds: float  # length of a block
    work: list[float] = field(default_factory=list)  # seconds of each block that was converted
    latency: list[float] = field(default_factory=list)  # seconds from a sample to its output, the oldest of each block
    n_silent: int = 0  # blocks below the gate, for which nothing was computed
    n_clipped: int = 0  # samples beyond full scale

    @property
    def n_missed(self) -> int:
        """Blocks whose work took longer than they last."""
        return sum(seconds > self.block_seconds for seconds in self.work)

    def process(self, engine: "Engine", block: np.ndarray, bypass: bool = False) -> np.ndarray:
        """What the engine makes of a block, timed where it computes something."""
        started = time.perf_counter()
        out = engine.process(block, bypass)
        if engine.is_silent:
            self.n_silent += 1
        elif not bypass:
            self.work.append(time.perf_counter() - started)
        self.n_clipped += int(np.count_nonzero(np.abs(out) > 1))
        return out

    def __str__(self) -> str:
        others = f"{self.n_missed} missed; {self.n_silent} silent"
        others += f"; {self.n_clipped} samples clipped" if self.n_clipped else ""
        if not self.work:
            return f"no block was converted; {others}"
        p50, p95, worst = (1000 * np.percentile(self.work, share) for share in (50, 95, 100))
        lag = 1000 * np.percentile(self.latency, 95)
        return (
            f"{len(self.work)} blocks of {1000 * self.block_seconds:.0f} ms: p50 {p50:.0f} ms, p95 {p95:.0f} ms, worst "
            f"{worst:.0f} ms of work; end-to-end latency {lag:.0f} ms (p95); {others}"
        )
