"""What makes overlapping blocks alike where they overlap: kept pitch, one run of noise, a phase that goes on.

All is counted in frames of a window that moves on by `n_step` frames with each block.

    window     |---- past: n_past ----|---- block: n_step ----|- delay -|
    next                   |---- past ------------|---- block ------------|- delay -|
                                                  `-- here both have the same phase
"""

import numpy as np
import torch

from modules.contracts import F0, Draws
from modules.f0.base import fill_gaps

N_HARMONICS = 9  # of the source


class PitchHistory:
    """The pitch of a window's frames: what has been put out stays as it was, the rest is predicted anew."""

    def __init__(self, n_frames: int) -> None:
        self._curve = np.zeros(n_frames)  # Hz, 0 where unvoiced
        self._last = 0.0  # Hz of the last voiced frame that left the window

    def move(self, n_frames: int) -> None:
        """The window moves on; the new frames are unvoiced until they are set."""
        voiced = self._curve[:n_frames][self._curve[:n_frames] > 0]
        self._last = voiced[-1] if len(voiced) else self._last
        self._curve = np.append(self._curve[n_frames:], np.zeros(n_frames))

    def set_end(self, pitch: F0, n_frames: int) -> None:
        """Takes the last `n_frames` from a prediction for the end of the window."""
        self._curve[-n_frames:] = (pitch.f0 * (pitch.uv > 0))[-n_frames:]

    def filled(self) -> F0:
        """The curve with gaps filled as predictors do it; one at its start goes on from what was before the window."""
        found = fill_gaps(np.append(self._last, self._curve))
        return F0(found.f0[1:], found.uv[1:])


class NoiseRun:
    """Noise of a latent and a source that moves with the window: a moment has the same in every block that reads it."""

    def __init__(self, n_frames: int, hop_length: int, latent_channels: int, device: torch.device, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._hop, self._device = hop_length, device
        self.latent = self._draw(latent_channels, n_frames)  # (I, N)
        self.source = self._draw(n_frames * hop_length, N_HARMONICS)  # (T, H)
        self.starts = torch.rand(N_HARMONICS, generator=self._generator)  # turns between the harmonics
        self.starts[0] = 0

    def move(self, n_frames: int) -> None:
        """The window moves on."""
        latent, source = self._draw(len(self.latent), n_frames), self._draw(n_frames * self._hop, N_HARMONICS)
        self.latent = torch.cat([self.latent[:, n_frames:], latent], 1)
        self.source = torch.cat([self.source[n_frames * self._hop :], source])

    def _draw(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self._generator).to(self._device)  # on the CPU, to be alike everywhere


class Phase:
    """The phase of the source's fundamental, which goes on from block to block."""

    def __init__(self, sampling_rate: int, hop_length: int) -> None:
        self._turns = 0.0  # where the next block begins
        self._per_hz = hop_length / sampling_rate  # turns of a frame at 1 Hz

    def advance(self, f0: np.ndarray, start: int, n_step: int) -> float:
        """Turns, 0 to 1, at which the source must begin with the first of the frames `f0` (N,) Hz, so that at frame
        `start` it is where the last block had it; `n_step` frames later is where the next block begins."""
        turns = f0.astype(np.float64) * self._per_hz
        first = (self._turns - turns[:start].sum()) % 1.0
        self._turns = (self._turns + turns[start : start + n_step].sum()) % 1.0
        return first


def draws_of(noise: NoiseRun, turns: float) -> Draws:
    """The random numbers of a window whose fundamental begins at a phase of `turns`."""
    harmonics = torch.arange(1, N_HARMONICS + 1, dtype=torch.float64)
    phases = (noise.starts.double() + harmonics * turns) % 1.0
    return Draws(noise.latent, phases.float().to(noise.latent.device), noise.source)
