"""Convolutions with fewer multiplications, for training on a CPU.

m outputs of a convolution with r taps are the middle coefficients of a product of polynomials. Multiplied out that
takes m r products; through the values of the polynomials at m + r - 1 points it takes one product for each point. With
m = 4 and r = 5 these are 8 in place of 20. Between wide layers each of those products is one of matrices, so it is
what counts, and the sums that lead to the points and back do not. Rounding errors are those of any fp32 convolution.

Source: Winograd, "Arithmetic Complexity of Computations", 1980; Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks", 2015, arXiv:1509.09308, section 4 and equation 10 (here along one axis).
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from modules.nn.channels_last import quick_linear

OUTPUTS = 4  # m: more need points whose powers cost digits
# Small numbers of both signs, so that neither their powers nor their differences grow; the last point is infinity.
_POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)
_TAPS = (3, 5)
# Measured on two cores: below these the sums cost what the products save.
_LEAST_CHANNELS = 160
_LEAST_OUTPUTS = 512
_LEAST_DILATED_TAPS, _MOST_DILATED_CHANNELS = 7, 64  # within these, gradients of dilated ones take a half to 0.9
_MOST_COLUMNS = 3  # of 5 and more, rows are as quick as columns


class QuickConv1d(nn.Conv1d):
    """`nn.Conv1d` with zero padding that trains faster on a CPU; what is not in training is left as it is."""

    def _conv_forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if _is_worth_it(self, x):
            return convolve(x.unsqueeze(3), weight, bias, self.padding[0]).squeeze(3)
        if _is_dilated(self, x):
            return convolve_dilated(x, weight, bias, self.padding[0], self.dilation[0])
        return super()._conv_forward(x, weight, bias)


class QuickConv2d(nn.Conv2d):
    """`nn.Conv2d` likewise, where its kernel is one wide."""

    def _conv_forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if self.kernel_size[1] == 1 and _is_worth_it(self, x):
            return convolve(x, weight.squeeze(3), bias, self.padding[0])
        if _is_narrow(self, x):
            return convolve_columns(x, weight, bias, self.padding[0], self.stride[0])
        return super()._conv_forward(x, weight, bias)


def convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, padding: int) -> torch.Tensor:
    """What `F.conv2d` gives for a kernel (O, C, r, 1) with stride 1 and `padding` zeros before and after H.

    x (B, C, H, W) float32, weight (O, C, r), bias (O,) or None, to (B, O, H + 2 padding - r + 1, W).
    """
    batch, channels, height, width = x.shape
    out_channels, _, taps = weight.shape
    transforms = _transforms(taps)
    wanted = height + 2 * padding - taps + 1
    n_tiles = math.ceil(wanted / OUTPUTS)
    missing = n_tiles * OUTPUTS - wanted
    tiles = _Tiles.apply(F.pad(x, (0, 0, padding, padding + missing)), OUTPUTS + taps - 1)
    n_points = len(tiles)
    values = (transforms.input @ tiles.view(n_points, -1)).view(n_points, channels, -1)
    kernel = (transforms.weight @ weight.permute(2, 0, 1).reshape(taps, -1)).view(n_points, out_channels, channels)
    products = _Products.apply(kernel, values).view(n_points, -1)
    y = (transforms.output @ products).view(OUTPUTS, out_channels, batch, n_tiles, width)
    y = y.permute(2, 1, 3, 0, 4).reshape(batch, out_channels, n_tiles * OUTPUTS, width)
    y = y if bias is None else y.add_(bias[:, None, None])
    return y[:, :, :wanted]


def convolve_dilated(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, padding: int, dilation: int
) -> torch.Tensor:
    """What `F.conv1d` with stride 1 gives: x (B, C, T), weight (O, C, r) to (B, O, T + 2 padding - dilation (r - 1)).

    Every `dilation`-th sample is a signal of its own, which a plain convolution filters. Written in rows of `dilation`
    samples, these signals stand in columns; the gradients of such a convolution take half the time of a dilated one's.
    """
    wanted = x.shape[2] + 2 * padding - dilation * (weight.shape[2] - 1)
    missing = -(x.shape[2] + 2 * padding) % dilation
    rows = F.pad(x, (padding, padding + missing)).unflatten(2, (-1, dilation))
    return F.conv2d(rows, weight.unsqueeze(3), bias).flatten(2)[:, :, :wanted]


def convolve_columns(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, padding: int, stride: int
) -> torch.Tensor:
    """What `F.conv2d` gives for a kernel (O, C, r, 1) along the H of x (B, C, H, W), as a transposed view.

    A CPU convolves several samples of a row at once: with two or three in a row most of it has nothing to do. Of what
    came out of here, elementwise functions keep the order in memory, and the next layer finds its rows at hand.
    """
    sizes = (1, stride), (0, padding)
    return F.conv2d(x.transpose(2, 3), weight.transpose(2, 3), bias, *sizes).transpose(2, 3)


class _Transforms(NamedTuple):
    """To the values at the points, (points, points) for tiles and (points, r) for weights, and back, (m, points)."""

    input: torch.Tensor
    weight: torch.Tensor
    output: torch.Tensor


@lru_cache
def _transforms(taps: int) -> _Transforms:
    """The matrices B^T, G and A^T of the paper.

    With M(x) the product of (x - p) over all finite points p, a row of `input` holds the coefficients of M / (x - p),
    and those of M for the point at infinity; `weight` evaluates the kernel and divides by the value of M / (x - p)
    at p; `output` holds the powers of the points.
    """
    points = torch.tensor(_POINTS[: OUTPUTS + taps - 2], dtype=torch.float64)
    n_points = len(points) + 1
    inputs, weights = (torch.zeros(n_points, size, dtype=torch.float64) for size in (n_points, taps))
    outputs = torch.zeros(OUTPUTS, n_points, dtype=torch.float64)
    for index, point in enumerate(points):
        others = torch.cat([points[:index], points[index + 1 :]])
        inputs[index, :-1] = _coefficients(others)
        weights[index] = point ** torch.arange(taps) / (point - others).prod()
        outputs[:, index] = point ** torch.arange(OUTPUTS)
    inputs[-1] = _coefficients(points)
    weights[-1, -1] = outputs[-1, -1] = 1
    # A factor of a row of one is free if the other is divided by it. So both stay near 1.
    scale = inputs.abs().sum(dim=1, keepdim=True).sqrt()
    return _Transforms((inputs / scale).float(), (weights * scale).float(), outputs.float())


def _coefficients(roots: torch.Tensor) -> torch.Tensor:
    """Of the product of (x - root), the constant first."""
    found = torch.ones(1, dtype=roots.dtype)
    for root in roots:
        found = F.pad(found, (1, 0)) - root * F.pad(found, (0, 1))
    return found


class _Tiles(torch.autograd.Function):
    """(B, C, H, W) to overlapping tiles (n, C, B, tiles, W) of n rows, one every `OUTPUTS` rows."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, n_rows: int) -> torch.Tensor:
        ctx.shape = x.shape
        return x.unfold(2, n_rows, OUTPUTS).permute(4, 1, 0, 2, 3).contiguous()

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        # What torch has for `unfold` adds element by element; this adds a row of all tiles at a time.
        total = grad.new_zeros(ctx.shape)
        last = OUTPUTS * (grad.shape[3] - 1)
        for row, part in enumerate(grad):
            total[:, :, row : row + last + 1 : OUTPUTS] += part.transpose(0, 1)
        return total, None


class _Products(torch.autograd.Function):
    """`torch.bmm` of (n, O, C) and (n, C, L), and its gradients, by `quick_linear`: MKL takes twice as long on an AMD
    processor, and half as long again on one without AVX-512."""

    @staticmethod
    def forward(ctx, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(a, b)
        return _products(a, b)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        a, b = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        grad_a = _products(grad, b.transpose(1, 2)) if wanted[0] else None
        return grad_a, _products(a.transpose(1, 2), grad) if wanted[1] else None


def _products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    total = a.new_empty(len(a), a.shape[1], b.shape[2])
    for product, left, right in zip(total, a, b):
        product.copy_(quick_linear(left, right.T))
    return total


def _is_trained_on_cpu(layer: nn.Conv1d | nn.Conv2d, x: torch.Tensor) -> bool:
    return (
        layer.training
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()  # it has kernels of its own
    )


def _is_dilated(layer: nn.Conv1d, x: torch.Tensor) -> bool:
    return (
        _is_trained_on_cpu(layer, x)
        and layer.dilation[0] > 1
        and layer.stride[0] == layer.groups == 1
        and layer.kernel_size[0] >= _LEAST_DILATED_TAPS
        and layer.in_channels <= _MOST_DILATED_CHANNELS
    )


def _is_narrow(layer: nn.Conv2d, x: torch.Tensor) -> bool:
    return (
        layer.training
        and x.device.type == "cpu"
        and set(layer.dilation) | {layer.kernel_size[1], layer.stride[1], layer.groups} == {1}
        and 1 < x.shape[3] <= _MOST_COLUMNS
        and not torch.compiler.is_compiling()
    )


def _is_worth_it(layer: nn.Conv1d | nn.Conv2d, x: torch.Tensor) -> bool:
    return (
        _is_trained_on_cpu(layer, x)
        and layer.kernel_size[0] in _TAPS
        and set(layer.stride) | set(layer.dilation) | {layer.groups} == {1}
        and min(layer.in_channels, layer.out_channels) >= _LEAST_CHANNELS
        and x.numel() >= _LEAST_OUTPUTS * layer.in_channels
    )
