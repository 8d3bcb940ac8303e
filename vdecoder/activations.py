"""The nonlinearities of the generator: leaky ReLU, and a periodic one kept free of aliasing.

Source: Lee et al., "BigVGAN", 2022, arXiv:2206.04658, sections 3.1 and 3.2 (snake activation between a twofold up- and
down-sampling); Ziyin et al., "Neural Networks Fail to Learn Periodic Functions and How to Fix It", 2020,
arXiv:2006.08195, for the snake itself.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

LEAKY_SLOPE = 0.1

FILTER_TAPS = 12
# Fractions of the doubled rate: the original Nyquist frequency, and half the width of the filter's slope.
CUTOFF, HALF_WIDTH = 0.25, 0.3


def kaiser_sinc_filter() -> torch.Tensor:
    """A low-pass filter (1, 1, taps) whose taps sum to 1.

    Source: Kaiser, "Nonrecursive digital filter design using the I0-sinh window function", 1974.
    """
    attenuation_db = 2.285 * (FILTER_TAPS / 2 - 1) * math.pi * 4 * HALF_WIDTH + 7.95
    beta = 0.1102 * (attenuation_db - 8.7)  # so above 50 dB, and these are 51
    window = torch.kaiser_window(FILTER_TAPS, periodic=False, beta=beta, dtype=torch.float32)
    times = torch.arange(FILTER_TAPS, dtype=torch.float32) - FILTER_TAPS / 2 + 0.5
    response = 2 * CUTOFF * window * torch.sinc(2 * CUTOFF * times)
    return (response / response.sum()).view(1, 1, FILTER_TAPS)


class SnakeBeta(nn.Module):
    """x + sin^2(a x) / b per channel, with a and b stored as logarithms."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, T) to the same shape."""
        alpha = self.alpha.exp()[:, None]
        beta = self.beta.exp()[:, None]
        sine = torch.sin(x * alpha)
        return torch.addcmul(x, sine, sine / (beta + 1e-9))


class _LowPass(nn.Module):
    """Holds the filter under the name that checkpoints use."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", kaiser_sinc_filter())


class AliasFreeSnake(nn.Module):
    """The snake at twice the rate, so that the harmonics it makes do not fold back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.act = SnakeBeta(channels)
        self.upsample = _LowPass()
        self.downsample = nn.ModuleDict({"lowpass": _LowPass()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, T) to the same shape."""
        edge = FILTER_TAPS // 2
        # The filter's sum is shared by two output samples per input sample, hence the factor.
        up, down = 2 * self.upsample.filter, self.downsample["lowpass"].filter
        up, down = (taps.to(x.dtype).expand(self.channels, -1, -1) for taps in (up, down))
        x = F.pad(x, (edge - 1, edge - 1), mode="replicate")
        # 2 (T + 10) - 2 + 12 samples come out; 15 on each side belong to the replicated edges.
        x = F.conv_transpose1d(x, up, stride=2, groups=self.channels)[..., 15:-15]
        x = F.pad(self.act(x), (edge - 1, edge), mode="replicate")
        return F.conv1d(x, down, stride=2, groups=self.channels)


def make_activation(name: str, channels: int, slope: float = LEAKY_SLOPE, overwrite: bool = False) -> nn.Module:
    """A fresh "snake", or "lrelu" with `slope` below zero.

    With `overwrite` a leaky ReLU may write into its input, which nobody needs any more: saves a copy of a wide tensor.
    """
    if name == "snake":
        return AliasFreeSnake(channels)
    assert name == "lrelu", name
    return nn.LeakyReLU(slope, inplace=overwrite)
