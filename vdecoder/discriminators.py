"""The discriminators of training: five look at the wave folded by a prime period, one at the wave as it is.

Attribute names are those of published checkpoints. Only training uses them (`modules/training/losses.py`).
`use_spectral_norm` bounds the layers by their largest singular value instead of weight norm; `channels` is the width of
the widest layer, with which the others scale.

Source: Kong, Kim and Bae, "HiFi-GAN", 2020, arXiv:2010.05646, section 2.3 (periods); Kumar et al., "MelGAN", 2019,
arXiv:1910.06711, section 2.2 (the strided, grouped convolutions over the wave).
"""

import itertools
import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm

from modules.nn.weight_norm import NormedConv1d, NormedConv2d

PERIODS = (2, 3, 5, 7, 11)
FULL_CHANNELS = 1024  # width of the widest layer in published checkpoints
SLOPE = 0.1
_INPUTS_PER_GROUP = 4


class ScaleDiscriminator(nn.Module):
    """Scores the wave at its own rate, with grouped convolutions that see ever more of it."""

    def __init__(self, use_spectral_norm: bool = False, channels: int = FULL_CHANNELS) -> None:
        super().__init__()
        conv = _normed(nn.Conv1d, NormedConv1d, use_spectral_norm)
        widths = [_scaled(width, channels) for width in (16, 64, 256, 1024, 1024)]
        self.convs = nn.ModuleList([conv(1, widths[0], 15, padding=7)])
        for wide, width in itertools.pairwise(widths):
            groups = math.gcd(max(1, wide // _INPUTS_PER_GROUP), wide, width)
            self.convs.append(conv(wide, width, 41, stride=4, padding=20, groups=groups))
        self.convs.append(conv(widths[-1], widths[-1], 5, padding=2))
        self.conv_post = conv(widths[-1], 1, 3, padding=1)

    def forward(self, y: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Scores (B, n) of a wave (B, 1, T) and the output of each layer, the last included."""
        return _score(y, self.convs, self.conv_post)


class PeriodDiscriminator(nn.Module):
    """Scores the wave folded into rows of `period` samples, each column by itself."""

    def __init__(self, period: int, use_spectral_norm: bool = False, channels: int = FULL_CHANNELS) -> None:
        super().__init__()
        self.period = period
        conv = _normed(nn.Conv2d, NormedConv2d, use_spectral_norm)
        widths = [1, *(_scaled(width, channels) for width in (32, 128, 512, 1024))]
        self.convs = nn.ModuleList(
            conv(wide, width, (5, 1), stride=(3, 1), padding=(2, 0)) for wide, width in itertools.pairwise(widths)
        )
        self.convs.append(conv(widths[-1], widths[-1], (5, 1), padding=(2, 0)))
        self.conv_post = conv(widths[-1], 1, (3, 1), padding=(1, 0))

    def forward(self, y: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """As `ScaleDiscriminator.forward`; T is reflected at the right up to a multiple of the period."""
        missing = -y.shape[-1] % self.period
        if missing:
            y = F.pad(y, (0, missing), mode="reflect")
        return _score(y.view(y.shape[0], 1, -1, self.period), self.convs, self.conv_post)


class MultiPeriodDiscriminator(nn.Module):
    """One scale discriminator and one per period, as published `D_*.pth` have them, at 1024 channels."""

    def __init__(self, use_spectral_norm: bool = False, channels: int = FULL_CHANNELS) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList([ScaleDiscriminator(use_spectral_norm, channels)])
        self.discriminators.extend(PeriodDiscriminator(period, use_spectral_norm, channels) for period in PERIODS)

    def forward(self, y: torch.Tensor) -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
        """Per discriminator the scores (B, n), near 1 for real and 0 for generated waves `y` (B, 1, T) in [-1, 1], and
        its layers' outputs, batch first."""
        results = [discriminator(y) for discriminator in self.discriminators]
        return [scores for scores, _ in results], [maps for _, maps in results]


def _score(x: torch.Tensor, convs: nn.ModuleList, last: nn.Module) -> tuple[torch.Tensor, list[torch.Tensor]]:
    maps = []
    for conv in convs:
        x = F.leaky_relu(conv(x), SLOPE)
        maps.append(x)
    x = last(x)
    return x.flatten(1), [*maps, x]


def _scaled(width: int, channels: int) -> int:
    """`width` of the published networks where their widest layer is `channels` instead of 1024; at least 1."""
    return max(1, width * channels // FULL_CHANNELS)


def _normed(plain: type, weight_normed: type, use_spectral_norm: bool) -> Callable[..., nn.Module]:
    if use_spectral_norm:
        return lambda *args, **kwargs: spectral_norm(plain(*args, **kwargs))
    return weight_normed
