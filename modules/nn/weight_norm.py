"""Convolutions whose weight is a direction times a length per channel, under the names that checkpoints use.

The two parameters are called `weight_g` and `weight_v`, so that published checkpoints load and other tools read ours.
For inference `fold_weight_norm` multiplies them out once.

Source: Salimans and Kingma, "Weight Normalization", 2016, arXiv:1602.07868, equation 2.
"""

import torch
from torch import nn
from torch.nn import functional as F

from modules.nn.channels_last import convolve, is_channels_last
from modules.nn.winograd import QuickConv1d, QuickConv2d


class _WeightNormed(nn.Module):
    """`weight_g` and `weight_v` in place of the `weight` of a convolution, until folded. Zero padding only."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        weight = self.weight.detach()
        del self.weight
        norm = torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.dim())), keepdim=True)
        self.weight_g = nn.Parameter(norm)
        self.weight_v = nn.Parameter(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the plain layer's."""
        return self._conv_forward(x, self.effective_weight(), self.bias)

    def effective_weight(self) -> torch.Tensor:
        """The weight that the convolution uses: g * v / |v|."""
        if "weight" in self._parameters:
            return self.weight
        return torch._weight_norm(self.weight_v, self.weight_g, 0)

    def fold(self) -> None:
        """Turns the layer into one with a plain `weight`; a second call changes nothing."""
        if "weight" in self._parameters:
            return
        with torch.no_grad():
            weight = self.effective_weight()
        del self.weight_g, self.weight_v
        self.weight = nn.Parameter(weight, requires_grad=False)


class NormedConv1d(_WeightNormed, QuickConv1d):
    """`nn.Conv1d` with weight norm, one length per output channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the plain layer's, in the layout of `x`."""
        return convolve(self, x, self.effective_weight())


class NormedConv2d(_WeightNormed, QuickConv2d):
    """`nn.Conv2d` with weight norm, one length per output channel."""


class NormedConvTranspose1d(_WeightNormed, nn.ConvTranspose1d):
    """`nn.ConvTranspose1d` with weight norm, one length per INPUT channel (the first axis of its weight)."""

    def _conv_forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if is_channels_last(x):
            sizes = (1, self.stride[0]), (0, self.padding[0]), (0, self.output_padding[0])
            return F.conv_transpose2d(x.unsqueeze(2), weight.unsqueeze(2), bias, *sizes).squeeze(2)
        return F.conv_transpose1d(
            x, weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )


def fold_weight_norm(module: nn.Module) -> nn.Module:
    """`module`, in place, with every weight-normed layer folded. In fp32, before a cast: wide norms lose digits."""
    for layer in module.modules():
        if isinstance(layer, _WeightNormed):
            layer.fold()
    return module
