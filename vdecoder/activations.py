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
# Of the doubled rate: the original Nyquist frequency, and the width of the filter's slope.
CUTOFF = 0.25
HALF_WIDTH = 0.3


def kaiser_sinc_filter(cutoff: float = CUTOFF, half_width: float = HALF_WIDTH, taps: int = FILTER_TAPS) -> torch.Tensor:
    """A low-pass filter of even length, its taps summing to 1.

    Args:
        cutoff: edge as a fraction of the sampling rate.
        half_width: half the width of the transition band, as a fraction of the sampling rate.
        taps: length, even.

    Returns:
        (1, 1, taps) float32.

    Source: Kaiser, "Nonrecursive digital filter design using the I0-sinh window function", 1974.
    """
    attenuation_db = 2.285 * (taps / 2 - 1) * math.pi * 4 * half_width + 7.95
    if attenuation_db > 50:
        beta = 0.1102 * (attenuation_db - 8.7)
    elif attenuation_db >= 21:
        beta = 0.5842 * (attenuation_db - 21) ** 0.4 + 0.07886 * (attenuation_db - 21)
    else:
        beta = 0.0
    window = torch.kaiser_window(taps, periodic=False, beta=beta, dtype=torch.float32)
    times = torch.arange(taps, dtype=torch.float32) - taps / 2 + 0.5
    response = 2 * cutoff * window * torch.sinc(2 * cutoff * times)
    return (response / response.sum()).view(1, 1, taps)


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


class _Upsample(nn.Module):
    """Twice the samples, interpolated by the filter. T to 2 T."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", kaiser_sinc_filter())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        channels = x.shape[1]
        edge = FILTER_TAPS // 2 - 1
        padded = F.pad(x, (edge, edge), mode="replicate")
        # The filter's sum is shared by two output samples per input sample, hence the factor.
        taps = (2 * self.filter).to(x.dtype).expand(channels, -1, -1)
        # 2 (T + 10) - 2 + 12 samples come out; 15 on each side belong to the replicated edges.
        return F.conv_transpose1d(padded, taps, stride=2, groups=channels)[..., 15:-15]


class _LowPass(nn.Module):
    """Holds the filter under the name that checkpoints use."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", kaiser_sinc_filter())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        channels = x.shape[1]
        padded = F.pad(x, (FILTER_TAPS // 2 - 1, FILTER_TAPS // 2), mode="replicate")
        return F.conv1d(padded, self.filter.to(x.dtype).expand(channels, -1, -1), stride=2, groups=channels)


class _Downsample(nn.Module):
    """Half the samples, after a low pass. 2 T to T."""

    def __init__(self) -> None:
        super().__init__()
        self.lowpass = _LowPass()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lowpass(x)


class AliasFreeSnake(nn.Module):
    """The snake at twice the rate, so that the harmonics it makes do not fold back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.act = SnakeBeta(channels)
        self.upsample = _Upsample()
        self.downsample = _Downsample()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, T) to the same shape."""
        return self.downsample(self.act(self.upsample(x)))


def make_activation(name: str, channels: int, slope: float = LEAKY_SLOPE, overwrite: bool = False) -> nn.Module:
    """A fresh activation for `channels` channels.

    Args:
        name: "lrelu" or "snake".
        channels: C of its input; a leaky ReLU does not need it.
        slope: of the leaky ReLU below zero.
        overwrite: a leaky ReLU may write into its input, which nobody needs any more. Saves a copy of a wide tensor.
    """
    if name == "snake":
        return AliasFreeSnake(channels)
    assert name == "lrelu", name
    return nn.LeakyReLU(slope, inplace=overwrite)


def reach_of(activation: nn.Module) -> int:
    """Samples on each side of an output sample that have a part in it."""
    # Two filters of 12 taps at twice the rate, one after the other: 12 half samples on each side, and rounding.
    return FILTER_TAPS // 2 + 1 if isinstance(activation, AliasFreeSnake) else 0
