"""The harmonic excitation: sines at the pitch and its overtones, plus noise.

Source: Wang, Takaki and Yamagishi, "Neural source-filter waveform models for statistical parametric speech synthesis",
2019, arXiv:1904.12088, section III-A.

Everything here runs in fp32 or in exact integers, whatever precision the network around it has: a phase in half
precision would be audible within milliseconds.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from modules.device import fp32_region

SINE_AMPLITUDE = 0.1
NOISE_VOICED = 0.003
NOISE_UNVOICED = SINE_AMPLITUDE / 3
N_OVERTONES = 8

# Phases are counted in integers of 2**-40 turns, so that sums of any length stay exact and wrap for free.
_TURN = 1 << 40


class HarmonicSource(nn.Module):
    """F0 to excitation. With `slow_start` the random start phase of an overtone is spread over the samples of the first
    frame, as the published mel vocoder was trained, instead of standing before the first sample."""

    def __init__(self, sampling_rate: int, hop_length: int, slow_start: bool = False) -> None:
        super().__init__()
        self.sampling_rate = sampling_rate
        self.hop_length = hop_length
        self.slow_start = slow_start
        self.l_linear = nn.Linear(N_OVERTONES + 1, 1)

    def forward(
        self, f0: torch.Tensor, phases: torch.Tensor | None = None, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The excitation (B, 1, N * hop_length) float32 in [-1, 1] of an F0 (B, N) Hz, 0 where there is none; random
        numbers, where given, as `waves` draws them."""
        with fp32_region(f0.device):
            waves = self.waves(f0.float(), phases, noise)
            mixed = F.linear(waves, self.l_linear.weight.float(), self.l_linear.bias.float())
            return torch.tanh(mixed).transpose(1, 2)

    @torch.no_grad()
    def waves(
        self, f0: torch.Tensor, phases: torch.Tensor | None = None, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Sine plus noise for the fundamental and each overtone, (B, N * hop_length, 9) float32, of (B, N) float32 Hz.

        Draws torch.rand (B, 9) for the start phases, of which the fundamental's is 0, then torch.randn (B, T, 9) for
        the noise. `phases`, in turns, and `noise` of these shapes take their place.
        """
        batch, n_frames = f0.shape
        starts = phases
        if starts is None:
            starts = torch.rand(batch, N_OVERTONES + 1, device=f0.device)
            starts[:, 0] = 0
        voiced = (f0 > 0).float()
        noise_level = NOISE_VOICED * voiced + NOISE_UNVOICED * (1 - voiced)
        shape = batch, n_frames * self.hop_length, N_OVERTONES + 1
        waves = torch.randn(shape, device=f0.device) if noise is None else noise.clone()
        framed = waves.view(batch, n_frames, self.hop_length, N_OVERTONES + 1)
        framed *= noise_level[:, :, None, None]
        # One harmonic after the other: a chunk of 30 s would otherwise hold several copies of (T, 9).
        for harmonic in range(N_OVERTONES + 1):
            phase = self._phase(f0 * (harmonic + 1), starts[:, harmonic])
            framed[..., harmonic] += torch.sin(phase).mul_((SINE_AMPLITUDE * voiced)[:, :, None])
        return waves

    def _phase(self, frequency: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """Phase in radians, 0 to 2 pi, at every sample, (B, N, hop_length), of (B, N) Hz and (B,) turns to start from.

        Within frame n a sample j (from 0) has phase B_n + (j + 1) s_n, where s is the step per sample in turns and
        B_n = start + hop * (s_0 + ... + s_{n-1}).
        """
        step = torch.remainder(frequency / self.sampling_rate, 1.0)
        start = (start * _TURN).long()
        if self.slow_start:
            step[:, 0] += start / _TURN
            start = torch.zeros_like(start)
        step = (step * _TURN).long()
        base = torch.cumsum(step, dim=1) - step
        base = base * self.hop_length + start[:, None]
        samples = torch.arange(1, self.hop_length + 1, device=frequency.device)
        turns = torch.add(base[..., None], step[..., None] * samples).bitwise_and_(_TURN - 1)
        return turns.to(torch.float32).mul_(2 * math.pi / _TURN)


class SineSource(nn.Module):
    """F0 to a single sine, the source of PC-NSF-HiFiGAN: no overtones, no noise, nothing random, and no weights.

    `rate` is that of its samples in Hz, `hop_length` how many of them a frame has.
    Source: OpenVPI, SingingVocoders, 2025: nsf_HiFigan with `mini_nsf`.
    """

    def __init__(self, rate: float, hop_length: int) -> None:
        super().__init__()
        self.rate, self.hop_length = rate, hop_length

    @torch.no_grad()
    def forward(self, f0: torch.Tensor) -> torch.Tensor:
        """The sine (B, 1, N * hop_length) float32 in [-1, 1] of an F0 (B, N) Hz, which moves in a straight line from
        each frame to the next."""
        step = f0.float() / self.rate  # turns in a sample, at the beginning of each frame
        change = torch.diff(step, append=step[:, -1:])
        n = torch.arange(1, self.hop_length + 1, device=f0.device, dtype=torch.float32)
        turns = step[..., None] * n + change[..., None] * (n * (n - 1) / (2 * self.hop_length))
        ends = turns[..., -1]
        ends = ((ends - ends.round()) * _TURN).long()
        before = (torch.cumsum(ends, dim=1) - ends).bitwise_and_(_TURN - 1)
        turns += before.to(torch.float32)[..., None] / _TURN
        return torch.sin(2 * math.pi * (turns - turns.round())).flatten(1)[:, None]
