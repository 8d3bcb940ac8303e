"""Residual blocks of the generator.

Source: Kong, Kim and Bae, "HiFi-GAN", 2020, arXiv:2010.05646, section 2.2 and appendix A.1.
"""

import torch
from torch import nn

from modules.nn.weight_norm import NormedConv1d
from vdecoder.activations import FILTER_TAPS, AliasFreeSnake, make_activation


def _same_conv(channels: int, kernel_size: int, dilation: int) -> NormedConv1d:
    padding = dilation * (kernel_size - 1) // 2
    return NormedConv1d(channels, channels, kernel_size, dilation=dilation, padding=padding)


class ResBlock1(nn.Module):
    """For each dilation: activation, dilated convolution, activation, plain convolution, sum. Kernels are odd."""

    def __init__(self, channels: int, kernel_size: int, dilations: tuple[int, ...], activation: str) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(_same_conv(channels, kernel_size, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(_same_conv(channels, kernel_size, 1) for _ in dilations)
        # Even ones stand before convs1, odd ones before convs2. The input of an even one is also the residual.
        self.activations = nn.ModuleList(
            make_activation(activation, channels, overwrite=index % 2 == 1) for index in range(2 * len(dilations))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, T) to the same shape."""
        for conv_1, conv_2, act_1, act_2 in zip(
            self.convs1, self.convs2, self.activations[::2], self.activations[1::2]
        ):
            x = conv_2(act_2(conv_1(act_1(x)))).add_(x)
        return x


class ResBlock2(nn.Module):
    """For each dilation: activation, dilated convolution, sum. Lighter than `ResBlock1`."""

    def __init__(self, channels: int, kernel_size: int, dilations: tuple[int, ...], activation: str) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_same_conv(channels, kernel_size, dilation) for dilation in dilations)
        self.activations = nn.ModuleList(make_activation(activation, channels) for _ in dilations)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, T) to the same shape."""
        for conv, activation in zip(self.convs, self.activations):
            x = conv(activation(x)).add_(x)
        return x


RESBLOCKS = {"1": ResBlock1, "2": ResBlock2}


def reach_of(block: nn.Module) -> int:
    """Samples on each side of an output sample of a block or an activation that have a part in it."""
    convs = sum(layer.padding[0] for layer in block.modules() if isinstance(layer, NormedConv1d))
    # Two filters of 12 taps at twice the rate, one after the other: 12 half samples on each side, and rounding.
    return convs + (FILTER_TAPS // 2 + 1) * sum(isinstance(layer, AliasFreeSnake) for layer in block.modules())
