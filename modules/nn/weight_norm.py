"""Convolutions whose weight is a direction times a length per channel, under the names that checkpoints use.

The two parameters are called `weight_g` and `weight_v`, so that published checkpoints load and other tools read ours.
For inference `fold_weight_norm` multiplies them out once.

Source: Salimans and Kingma, "Weight Normalization", 2016, arXiv:1602.07868, equation 2.
"""

import torch
from torch import nn
from torch.nn import functional as F

from modules.nn.winograd import QuickConv1d, QuickConv2d


class _WeightNormed(nn.Module):
    """What both layers share: `weight_g` and `weight_v` in place of `weight`, until folded."""

    def _split_weight(self) -> None:
        """Replaces `weight` by `weight_v` (the same values) and `weight_g`, its norm per slice of the first axis."""
        weight = self.weight.detach()
        del self.weight
        norm = torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.dim())), keepdim=True)
        self.weight_g = nn.Parameter(norm)
        self.weight_v = nn.Parameter(weight)

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


class NormedConv1d(QuickConv1d, _WeightNormed):
    """`nn.Conv1d` with weight norm; arguments as there, zero padding only."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._split_weight()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C_in, N) to (B, C_out, N')."""
        return self._conv_forward(x, self.effective_weight(), self.bias)


class NormedConv2d(QuickConv2d, _WeightNormed):
    """`nn.Conv2d` with weight norm; arguments as there, zero padding only."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._split_weight()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C_in, H, W) to (B, C_out, H', W')."""
        return self._conv_forward(x, self.effective_weight(), self.bias)


class NormedConvTranspose1d(nn.ConvTranspose1d, _WeightNormed):
    """`nn.ConvTranspose1d` with weight norm, one length per INPUT channel (the first axis of its weight)."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._split_weight()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C_in, N) to (B, C_out, N * stride) for the paddings used here."""
        return F.conv_transpose1d(
            x,
            self.effective_weight(),
            self.bias,
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
        )


def fold_weight_norm(module: nn.Module) -> nn.Module:
    """Folds every weight-normed layer inside `module`, in place; the outputs stay what they were.

    Do this in fp32 before a cast to half precision: the norm of a wide layer loses digits otherwise.

    Returns:
        The same module.
    """
    for layer in module.modules():
        if isinstance(layer, _WeightNormed):
            layer.fold()
    return module
