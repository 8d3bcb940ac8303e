"""The gated convolution stack that the posterior encoder and the flow are made of.

Source: van den Oord et al., "WaveNet", 2016, arXiv:1609.03499, section 2.3, without causality or dilation.
"""

import torch
from torch import nn

from modules.nn.conv import DepthwiseConv1d
from modules.nn.weight_norm import NormedConv1d


def gated(x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    """tanh of the first half of the channels times sigmoid of the second, of (B, 2C, N) + (B, 2C, 1 or N)."""
    tanh_part, sigmoid_part = (x + condition).chunk(2, dim=1)
    return torch.tanh(tanh_part) * torch.sigmoid(sigmoid_part)


class WaveNet(nn.Module):
    """Layers of gated convolution over (B, H, N) with residual and skip paths, conditioned on the speaker."""

    def __init__(
        self, channels: int, kernel_size: int, n_layers: int, gin_channels: int, depthwise: bool = False
    ) -> None:
        super().__init__()
        conv = DepthwiseConv1d if depthwise else NormedConv1d
        last = n_layers - 1
        self.channels = channels
        self.in_layers = nn.ModuleList(
            conv(channels, 2 * channels, kernel_size, padding=kernel_size // 2) for _ in range(n_layers)
        )
        # The last layer has no residual path, so it makes the skip half only.
        self.res_skip_layers = nn.ModuleList(
            NormedConv1d(channels, channels if layer == last else 2 * channels, 1) for layer in range(n_layers)
        )
        self.cond_layer = NormedConv1d(gin_channels, 2 * channels * n_layers, 1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None, g: torch.Tensor) -> torch.Tensor:
        """Sum of the skip paths, (B, H, N), zero where the mask (B, 1, N) is; `g` is (B, gin, 1 or N)."""
        conditions = self.cond_layer(g).chunk(len(self.in_layers), dim=1)
        total = torch.zeros_like(x)
        for in_layer, res_skip, condition in zip(self.in_layers, self.res_skip_layers, conditions):
            y = res_skip(gated(in_layer(x), condition))
            if y.shape[1] == self.channels:
                total = total + y
                break
            residual, skip = y.chunk(2, dim=1)
            x = x + residual if mask is None else (x + residual) * mask
            total = total + skip
        return total if mask is None else total * mask
