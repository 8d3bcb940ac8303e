"""Convolutions and linear layers as a CPU computes them quickest: with the channels of a sample side by side in memory.

oneDNN then filters (B, C, T) at the speed of matrix products, without rearranging it before and after each layer, and
its products of matrices use all of a processor where MKL, which torch takes for linear layers, leaves half of it to
Intel. Layers only in inference: in training the decoder took longer this way. Measured: docs/benchmarks.md.
"""

import platform

import torch
from torch import nn
from torch.nn import functional as F

# oneDNN has these kernels for x86; elsewhere torch's own layers stay.
_HAS_KERNELS = torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")
_HAS_LINEAR = _HAS_KERNELS and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # not public: it may go


def pays_off(x: torch.Tensor) -> bool:
    """Whether layers are quicker this way for `x`, here and now."""
    return (
        _HAS_KERNELS
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.is_grad_enabled()
        and not torch.onnx.is_in_onnx_export()
    )


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """(B, C, T) with the channels of a sample side by side where that pays off, else `x` itself."""
    if is_channels_last(x) or not pays_off(x):
        return x
    return x.transpose(1, 2).clone(memory_format=torch.contiguous_format).transpose(1, 2)


def is_channels_last(x: torch.Tensor) -> bool:
    """Whether (B, C, T) is what `channels_last` makes where it pays off, or came out of `convolve`."""
    return x.stride(1) == 1 and x.stride(2) > 1 and pays_off(x)


def convolve(conv: nn.Conv1d, x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """What `conv` gives (with another weight, if given), in the layout of `x`; torch's own would rearrange it."""
    if not is_channels_last(x):
        return conv(x) if weight is None else conv._conv_forward(x, weight, conv.bias)
    x, weight = x.unsqueeze(2), (conv.weight if weight is None else weight).unsqueeze(2)
    sizes = (1, conv.stride[0]), (0, conv.padding[0]), (1, conv.dilation[0])
    return F.conv2d(x, weight, conv.bias, *sizes, conv.groups).squeeze(2)


def quick_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`F.linear` by oneDNN where it is at hand, of fp32 on a CPU and without gradients; any strides will do."""
    if not _HAS_LINEAR:
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class QuickLinear(nn.Linear):
    """`nn.Linear` by oneDNN, as torch's compiler has it, instead of MKL."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the plain layer's; of `x` in another precision than the weights', in that of `x`."""
        if x.dtype != self.weight.dtype:
            return F.linear(x.to(self.weight.dtype), self.weight, self.bias).to(x.dtype)
        if x.dtype != torch.float32 or not pays_off(x):
            return super().forward(x)
        return quick_linear(x, self.weight, self.bias)


def quicken(network: nn.Module) -> None:
    """Makes every plain linear layer of a network, such as one of torchaudio's, a `QuickLinear` with its weights."""
    for layer in network.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = QuickLinear


def lower_linear(network: nn.Module, dtype: torch.dtype) -> None:
    """Makes every `QuickLinear` multiply in `dtype`; what goes in and comes out, and all between, stays as it was."""
    for layer in network.modules():
        if isinstance(layer, QuickLinear):
            layer.to(dtype)
