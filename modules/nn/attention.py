"""Self-attention for the content encoder (relative positions) and for causal decoders.

Blocks of layers built from these are in `transformer.py`.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from modules.errors import ConfigError

# Filled into scores of padded frames: its exponential is 0 in every precision, and half precision can hold it.
MASKED_SCORE = -1e4
# Queries handled at once where no gradient is wanted: bounds the (heads, queries, N) scores of a long stretch.
QUERY_BLOCK = 512


class _SelfAttention(nn.Module):
    """Projections and head bookkeeping of both kinds of attention.

    Args:
        channels: H, a multiple of `n_heads`.
        n_heads: how many heads.
        p_dropout: dropout on the attention weights.

    Raises:
        ConfigError: the heads do not divide the channels.
    """

    def __init__(self, channels: int, n_heads: int, p_dropout: float) -> None:
        super().__init__()
        if channels % n_heads:
            raise ConfigError(f"hidden_channels {channels} is not a multiple of n_heads {n_heads}")
        self.n_heads = n_heads
        self.p_dropout = p_dropout
        self.conv_q = nn.Conv1d(channels, channels, 1)
        self.conv_k = nn.Conv1d(channels, channels, 1)
        self.conv_v = nn.Conv1d(channels, channels, 1)
        self.conv_o = nn.Conv1d(channels, channels, 1)
        for projection in (self.conv_q, self.conv_k, self.conv_v):
            nn.init.xavier_uniform_(projection.weight)

    def _split_heads(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, N) to (B, heads, N, H / heads)."""
        return x.unflatten(1, (self.n_heads, -1)).transpose(2, 3)

    def _join_heads(self, x: torch.Tensor) -> torch.Tensor:
        """(B, heads, N, H / heads) to (B, H, N), projected."""
        return self.conv_o(x.transpose(2, 3).flatten(1, 2))


class CausalAttention(_SelfAttention):
    """Self-attention where a frame sees itself and the past; frames of padding are not hidden.

    The key projection starts equal to the query projection, so that near frames attend to each other at first.
    """

    def __init__(self, channels: int, n_heads: int, p_dropout: float = 0.0) -> None:
        super().__init__(channels, n_heads, p_dropout)
        with torch.no_grad():
            self.conv_k.weight.copy_(self.conv_q.weight)
            self.conv_k.bias.copy_(self.conv_q.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, N) to (B, H, N)."""
        q, k, v = (self._split_heads(conv(x)) for conv in (self.conv_q, self.conv_k, self.conv_v))
        dropout = self.p_dropout if self.training else 0.0
        return self._join_heads(F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True))


class RelativeAttention(_SelfAttention):
    """Self-attention over the whole stretch, with learnt keys and values for the nearest frames on each side.

    Frame i looks at frame j with score (q_i / sqrt(d)) . (k_j + r_{j-i}), and r is zero beyond the window.

    Args:
        window: frames on each side that have an embedding of their own.

    Source: Shaw et al., "Self-Attention with Relative Position Representations", 2018, arXiv:1803.02155, equations 3-5.
    """

    def __init__(self, channels: int, n_heads: int, p_dropout: float = 0.0, window: int = 4) -> None:
        super().__init__(channels, n_heads, p_dropout)
        self.window = window
        head_channels = channels // n_heads
        shape, scale = (1, 2 * window + 1, head_channels), head_channels**-0.5
        self.emb_rel_k = nn.Parameter(torch.randn(shape) * scale)
        self.emb_rel_v = nn.Parameter(torch.randn(shape) * scale)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Attends from every frame to every real frame.

        Args:
            x: (B, H, N).
            mask: (B, 1, N) bool, or None if every frame is real.

        Returns:
            (B, H, N); at padded frames the values mean nothing.
        """
        q, k, v = (self._split_heads(conv(x)) for conv in (self.conv_q, self.conv_k, self.conv_v))
        q = q / math.sqrt(q.shape[-1])
        hidden = None if mask is None else ~mask.bool().unsqueeze(1)
        block = q.shape[2] if torch.is_grad_enabled() else QUERY_BLOCK
        parts = [self._attend(part, k, v, hidden, i * block) for i, part in enumerate(q.split(block, dim=2))]
        return self._join_heads(parts[0] if len(parts) == 1 else torch.cat(parts, dim=2))

    def _attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, hidden: torch.Tensor | None, first: int
    ) -> torch.Tensor:
        """Output (B, heads, n, d) for n queries, of which the first is frame `first` of the stretch."""
        # Of query i the keys i-w .. i+w; those outside the stretch are moved inside and made to count for nothing.
        offsets = torch.arange(-self.window, self.window + 1, device=q.device)
        near = torch.arange(first, first + q.shape[2], device=q.device)[:, None] + offsets
        inside = (near >= 0) & (near < k.shape[2])
        near = near.clamp(0, k.shape[2] - 1).expand(*q.shape[:2], -1, -1)

        scores = q @ k.transpose(2, 3)
        relative = (q @ self.emb_rel_k[0].T).masked_fill(~inside, 0)
        scores = scores.scatter_add_(3, near, relative.to(scores.dtype))
        if hidden is not None:
            scores = scores.masked_fill_(hidden, MASKED_SCORE)
        weights = F.dropout(torch.softmax(scores, dim=3), self.p_dropout, self.training).to(v.dtype)
        near_weights = weights.gather(3, near).masked_fill(~inside, 0)
        return weights @ v + near_weights @ self.emb_rel_v[0]
