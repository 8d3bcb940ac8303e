"""Long waves cut into overlapping pieces for a network, and its frames joined again: memory does not grow with them.

    wave    |--------------------------------------------------------------|
    pieces  |================.....|
                        .....|================.....|
                                         .....|======================|      = kept   . context, computed and dropped

Pieces start where a frame of the network starts, on the grid of its pooling, and where the resampler's phase is zero:
what is computed from a piece differs from the whole only by what a network sees beyond the context.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class BlockPlan:
    """How a wave is cut.

    Args:
        rate: of the wave, Hz.
        native_rate: that the network listens at, Hz.
        native_hop: samples at `native_rate` from frame to frame.
        multiple: frames that the network pools into one; pieces start at a multiple of it.
        seconds: longest piece. A wave up to this is not cut, so that its result is the whole-file result.
        context_seconds: on both sides of what is kept.
    """

    rate: int
    native_rate: int = 16000
    native_hop: int = 160
    multiple: int = 1
    seconds: float = 60.0
    context_seconds: float = 2.0

    @property
    def grid(self) -> int:
        """Frames between places where a piece may start.

        One frame is hop * rate / native_rate samples, which need not be whole: at 44.1 kHz one of 10 ms is 441
        samples, at 22.05 kHz it is 220.5 and every second place is good.
        """
        whole = self.native_rate // math.gcd(self.native_rate, self.native_hop * self.rate)
        phase = self.native_rate // math.gcd(self.native_rate, self.rate)
        phase //= math.gcd(phase, self.native_hop)
        return math.lcm(whole, phase, self.multiple)

    def pieces(self, n_samples: int) -> list[tuple[slice, slice]]:
        """Samples of each piece, and which frames of it are kept."""
        if n_samples <= self.seconds * self.rate:
            return [(slice(0, n_samples), slice(None))]
        frames_per_second = self.native_rate / self.native_hop
        context = self._on_grid(self.context_seconds * frames_per_second)
        kept = self._on_grid((self.seconds - 2 * self.context_seconds) * frames_per_second)
        pieces = []
        for first in range(0, math.ceil(n_samples / self._samples(1)), kept):
            begin, end = max(0, first - context), first + kept + context
            if self._samples(end) >= n_samples:
                return [*pieces, (slice(int(self._samples(begin)), n_samples), slice(first - begin, None))]
            samples = slice(int(self._samples(begin)), int(self._samples(end)))
            pieces.append((samples, slice(first - begin, first - begin + kept)))
        raise AssertionError("the last piece ends with the wave")

    def _samples(self, frame: int) -> float:
        return frame * self.native_hop * self.rate / self.native_rate

    def _on_grid(self, frames: float) -> int:
        return max(1, round(frames / self.grid)) * self.grid


def run_in_blocks(
    wav: np.ndarray, plan: BlockPlan, track: Callable[[torch.Tensor], torch.Tensor], device: torch.device
) -> np.ndarray:
    """A curve of the network's own frames, from pieces of a wave.

    Args:
        wav: (T,) at plan.rate.
        plan: how it is cut.
        track: curve (n,) of a piece (t,) float32 on `device`; frame i belongs to sample i * hop of the piece.
        device: where the pieces are put and the curve is collected.

    Returns:
        (n,) float64.
    """
    curves = []
    for samples, kept in plan.pieces(len(wav)):
        piece = torch.from_numpy(wav[samples].astype(np.float32)).to(device)
        curves.append(track(piece)[kept])
    return torch.cat(curves).cpu().double().numpy()
