"""Small convolutional parts of the encoders and flows: channel norm, feed-forward blocks, depthwise convolution."""

import torch
from torch import nn
from torch.nn import functional as F

from modules.nn.dropout import Dropout
from modules.nn.weight_norm import NormedConv1d
from modules.nn.winograd import QuickConv1d


class ChannelNorm(nn.Module):
    """Layer norm over the channels of (B, C, N), with parameters called gamma and beta as checkpoints have them."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, N) to the same shape, each frame with mean 0 and variance 1 before gamma and beta."""
        normed = F.layer_norm(x.transpose(1, -1), self.gamma.shape, self.gamma, self.beta, self.eps)
        return normed.transpose(1, -1)


class FeedForward(nn.Module):
    """Two convolutions with a ReLU between, on masked frames; causal ones see the past only (all padding left)."""

    def __init__(
        self, channels: int, filter_channels: int, kernel_size: int, p_dropout: float = 0.0, causal: bool = False
    ) -> None:
        super().__init__()
        left = kernel_size - 1 if causal else (kernel_size - 1) // 2
        self.padding = (left, kernel_size - 1 - left)
        self.conv_1 = QuickConv1d(channels, filter_channels, kernel_size)
        self.conv_2 = QuickConv1d(filter_channels, channels, kernel_size)
        self.drop = Dropout(p_dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """(B, C, N) and (B, 1, N) to (B, C, N); no mask means that every frame is real."""
        x = self.conv_1(F.pad(x if mask is None else x * mask, self.padding))
        x = self.drop(F.relu(x))
        x = self.conv_2(F.pad(x if mask is None else x * mask, self.padding))
        return x if mask is None else x * mask


class DepthwiseConv1d(nn.Module):
    """A convolution per channel, then one across channels, (B, C_in, N) to (B, C_out, N): far fewer weights."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, padding: int) -> None:
        super().__init__()
        self.depth_conv = NormedConv1d(in_channels, in_channels, kernel_size, padding=padding, groups=in_channels)
        self.point_conv = NormedConv1d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One after the other."""
        return self.point_conv(self.depth_conv(x))
