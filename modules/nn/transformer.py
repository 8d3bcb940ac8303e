"""Stacks of attention and feed-forward layers, normalised after each residual sum.

x is (B, H, N); mask (B, 1, N), or None if every frame is real. What comes out is zero at padded frames.

Source: Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, section 3.1, with convolutions as the
feed-forward part (Ren et al., "FastSpeech", 2019, arXiv:1905.09263, section 3.1).
"""

from dataclasses import dataclass

import torch
from torch import nn

from modules.nn.attention import CausalAttention, RelativeAttention
from modules.nn.conv import ChannelNorm, FeedForward
from modules.nn.dropout import Dropout
from modules.nn.wavenet import gated
from modules.nn.weight_norm import NormedConv1d


@dataclass(frozen=True)
class TransformerSpec:
    """Sizes of a stack."""

    channels: int  # H, width of every layer
    filter_channels: int  # width inside the feed-forward blocks
    n_heads: int
    n_layers: int
    kernel_size: int  # frames that a feed-forward convolution sees
    p_dropout: float  # everywhere, 0 to 1


class RelativeTransformer(nn.Module):
    """Layers that see the whole chunk, with relative positions."""

    def __init__(self, spec: TransformerSpec) -> None:
        super().__init__()
        self.drop = Dropout(spec.p_dropout)
        layers = range(spec.n_layers)
        self.attn_layers = nn.ModuleList(RelativeAttention(spec.channels, spec.n_heads, spec.p_dropout) for _ in layers)
        self.norm_layers_1 = nn.ModuleList(ChannelNorm(spec.channels) for _ in layers)
        self.ffn_layers = nn.ModuleList(
            FeedForward(spec.channels, spec.filter_channels, spec.kernel_size, spec.p_dropout) for _ in layers
        )
        self.norm_layers_2 = nn.ModuleList(ChannelNorm(spec.channels) for _ in layers)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """(B, H, N) to the same shape."""
        x = x if mask is None else x * mask
        for attention, norm_1, feed_forward, norm_2 in zip(
            self.attn_layers, self.norm_layers_1, self.ffn_layers, self.norm_layers_2
        ):
            x = norm_1(x + self.drop(attention(x, mask)))
            x = norm_2(x + self.drop(feed_forward(x, mask)))
        return x if mask is None else x * mask


class CausalTransformer(nn.Module):
    """Layers that see the past only; with `gin_channels`, gated by a speaker vector of that width before each."""

    def __init__(self, spec: TransformerSpec, gin_channels: int | None = None) -> None:
        super().__init__()
        self.drop = Dropout(spec.p_dropout)
        layers = range(spec.n_layers)
        if gin_channels is not None:
            self.cond_pre = nn.Conv1d(spec.channels, 2 * spec.channels, 1)
            self.cond_layer = NormedConv1d(gin_channels, 2 * spec.channels * spec.n_layers, 1)
        self.self_attn_layers = nn.ModuleList(
            CausalAttention(spec.channels, spec.n_heads, spec.p_dropout) for _ in layers
        )
        self.norm_layers_0 = nn.ModuleList(ChannelNorm(spec.channels) for _ in layers)
        self.ffn_layers = nn.ModuleList(
            FeedForward(spec.channels, spec.filter_channels, spec.kernel_size, spec.p_dropout, causal=True)
            for _ in layers
        )
        self.norm_layers_1 = nn.ModuleList(ChannelNorm(spec.channels) for _ in layers)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None, g: torch.Tensor | None = None) -> torch.Tensor:
        """(B, H, N) to the same shape; `g` (B, gin, 1 or N) exactly if the stack was built with `gin_channels`."""
        conditions = None if g is None else self.cond_layer(g).chunk(len(self.ffn_layers), dim=1)
        x = x if mask is None else x * mask
        for layer, (attention, norm_0, feed_forward, norm_1) in enumerate(
            zip(self.self_attn_layers, self.norm_layers_0, self.ffn_layers, self.norm_layers_1)
        ):
            if conditions is not None:
                x = gated(self.cond_pre(x), conditions[layer])
            x = norm_0(x + self.drop(attention(x)))
            x = norm_1(x + self.drop(feed_forward(x, mask)))
        return x if mask is None else x * mask
