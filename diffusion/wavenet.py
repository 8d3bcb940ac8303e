"""The denoiser: a WaveNet over mel frames that guesses the noise in a noisy mel spectrum.

Source: Liu et al., "DiffSinger", 2021, arXiv:2105.02446, section 4.2; Kong et al., "DiffWave", 2020, arXiv:2009.09761,
section 3. Attribute names are those of published checkpoints.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from modules.nn.winograd import QuickConv1d

Projections = list[torch.Tensor]


class ResidualLayer(nn.Module):
    """One gated convolution with a residual and a skip path."""

    def __init__(self, channels: int, condition_channels: int) -> None:
        super().__init__()
        self.dilated_conv = QuickConv1d(channels, 2 * channels, 3, padding=1)
        self.diffusion_projection = nn.Linear(channels, channels)
        self.conditioner_projection = nn.Conv1d(condition_channels, 2 * channels, 1)
        self.output_projection = nn.Conv1d(channels, 2 * channels, 1)

    def project(self, condition: torch.Tensor) -> torch.Tensor:
        """What the condition (B, H, N) adds before the gate, (B, 2 C, N)."""
        return self.conditioner_projection(condition)

    def forward(
        self, x: torch.Tensor, step: torch.Tensor, projection: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The layer's output and its share of the skip sum, (B, C, N) each.

        `step` is the embedding (B or 1, C) of the noise level, `projection` what `project` returns, and `mask`
        (B, 1, N) 0 beyond the end of an item, None where all are of one length.
        """
        y = x + self.diffusion_projection(step)[..., None]
        if mask is not None:
            y = y * mask  # the convolution sees zeros beyond the end, as it does for an item alone
        y = self.dilated_conv(y) + projection
        gate, signal = y.chunk(2, dim=1)
        residual, skip = self.output_projection(torch.sigmoid(gate) * torch.tanh(signal)).chunk(2, dim=1)
        return (x + residual) * math.sqrt(0.5), skip


class WaveNet(nn.Module):
    """Noisy mel (M bands), noise level and condition (H channels) to the noise, by layers of C channels."""

    def __init__(self, n_mels: int, channels: int, condition_channels: int, n_layers: int) -> None:
        super().__init__()
        self.channels = channels
        self.input_projection = nn.Conv1d(n_mels, channels, 1)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.Mish(), nn.Linear(4 * channels, channels))
        self.residual_layers = nn.ModuleList(ResidualLayer(channels, condition_channels) for _ in range(n_layers))
        self.skip_projection = nn.Conv1d(channels, channels, 1)
        self.output_projection = nn.Conv1d(channels, n_mels, 1)
        for conv in [self.input_projection, self.skip_projection]:
            nn.init.kaiming_normal_(conv.weight)
        for layer in self.residual_layers:
            for conv in (layer.dilated_conv, layer.conditioner_projection, layer.output_projection):
                nn.init.kaiming_normal_(conv.weight)
        nn.init.zeros_(self.output_projection.weight)

    def project(self, condition: torch.Tensor) -> Projections:
        """What the condition (B, H, N) adds in each layer at any noise level, (B, 2 C, N) in the weights' precision."""
        condition = condition.to(self.input_projection.weight.dtype)
        return [layer.project(condition) for layer in self.residual_layers]

    def denoise(
        self, x: torch.Tensor, t: torch.Tensor, projections: Projections, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The noise in `x` (B, 1, M, N), of its shape and precision, at levels `t` (B,) or (1,), steps of the chain or
        times between two; `projections` is what `project` returns, `mask` (B, 1, N) 0 beyond the end of an item."""
        dtype = self.input_projection.weight.dtype
        mask = None if mask is None else mask.to(dtype)
        hidden = F.relu(self.input_projection(x[:, 0].to(dtype)))
        step = self.mlp(_sinusoid(t, self.channels).to(dtype))
        total = None
        for layer, projection in zip(self.residual_layers, projections):
            hidden, skip = layer(hidden, step, projection, mask)
            total = skip if total is None else total + skip
        total = F.relu(self.skip_projection(total / math.sqrt(len(self.residual_layers))))
        return self.output_projection(total)[:, None].to(x.dtype)

    def forward(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """The noise in `x` (B, 1, M, N) at level `t` (B,) given a condition (B, H, N)."""
        return self.denoise(x, t, self.project(condition))


def _sinusoid(t: torch.Tensor, width: int) -> torch.Tensor:
    """Position encoding (B, width) of noise levels (B,): sines, then cosines, of falling frequency."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=t.device) * -(math.log(10000) / (half - 1)))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
