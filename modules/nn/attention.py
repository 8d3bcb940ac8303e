"""Self-attention for the content encoder (relative positions) and for causal decoders; stacks are in `transformer.py`.

The ONNX exporter takes as fixed what it cannot see depend on the length: so heads are split by `reshape` with sizes
that are known, and the queries stay in one block.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from modules.errors import ConfigError
from modules.nn.dropout import dropout

# Filled into scores of padded frames: its exponential is 0 in every precision, and half precision can hold it.
MASKED_SCORE = -1e4
# Queries handled at once where no gradient is wanted: bounds the (heads, queries, N) scores of a long chunk.
QUERY_BLOCK = 512


class _SelfAttention(nn.Module):
    """Projections and head bookkeeping of both kinds of attention over (B, H, N)."""

    def __init__(self, channels: int, n_heads: int, p_dropout: float) -> None:
        super().__init__()
        if channels % n_heads:
            raise ConfigError(f"hidden_channels {channels} is not a multiple of n_heads {n_heads}")
        self.channels, self.n_heads, self.head_channels = channels, n_heads, channels // n_heads
        self.p_dropout = p_dropout
        self.conv_q = nn.Conv1d(channels, channels, 1)
        self.conv_k = nn.Conv1d(channels, channels, 1)
        self.conv_v = nn.Conv1d(channels, channels, 1)
        self.conv_o = nn.Conv1d(channels, channels, 1)
        for projection in (self.conv_q, self.conv_k, self.conv_v):
            nn.init.xavier_uniform_(projection.weight)

    def _heads(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Queries, keys and values (B, heads, N, H / heads) of (B, H, N)."""
        rows = (conv(x) for conv in (self.conv_q, self.conv_k, self.conv_v))
        return [row.reshape(len(x), self.n_heads, self.head_channels, -1).transpose(2, 3) for row in rows]

    def _join(self, x: torch.Tensor) -> torch.Tensor:
        """(B, heads, N, H / heads) to (B, H, N), projected."""
        return self.conv_o(x.transpose(2, 3).reshape(len(x), self.channels, -1))


class CausalAttention(_SelfAttention):
    """Self-attention where a frame sees itself and the past; frames of padding are not hidden."""

    def __init__(self, channels: int, n_heads: int, p_dropout: float = 0.0) -> None:
        super().__init__(channels, n_heads, p_dropout)
        # Equal keys and queries: at first near frames attend to each other.
        with torch.no_grad():
            self.conv_k.weight.copy_(self.conv_q.weight)
            self.conv_k.bias.copy_(self.conv_q.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, N) to (B, H, N)."""
        dropout = self.p_dropout if self.training else 0.0
        return self._join(F.scaled_dot_product_attention(*self._heads(x), dropout_p=dropout, is_causal=True))


class RelativeAttention(_SelfAttention):
    """Self-attention over the whole chunk, with learnt keys and values for the `window` nearest frames on each side.

    Frame i looks at frame j with score (q_i / sqrt(d)) . (k_j + r_{j-i}), and r is zero beyond the window.

    Source: Shaw et al., "Self-Attention with Relative Position Representations", 2018, arXiv:1803.02155, equations 3-5.
    """

    def __init__(self, channels: int, n_heads: int, p_dropout: float = 0.0, window: int = 4) -> None:
        super().__init__(channels, n_heads, p_dropout)
        self.window = window
        shape, scale = (1, 2 * window + 1, self.head_channels), self.head_channels**-0.5
        self.emb_rel_k = nn.Parameter(torch.randn(shape) * scale)
        self.emb_rel_v = nn.Parameter(torch.randn(shape) * scale)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """(B, H, N) to the same; at padded frames, those outside `mask` (B, 1, N) bool, the values mean nothing."""
        q, k, v = self._heads(x)
        q = q / math.sqrt(self.head_channels)
        hidden = None if mask is None else ~mask.bool().unsqueeze(1)
        if torch.is_grad_enabled() or torch.onnx.is_in_onnx_export():
            return self._join(self._attend(q, k, v, hidden, 0))
        parts = [
            self._attend(part, k, v, hidden, i * QUERY_BLOCK) for i, part in enumerate(q.split(QUERY_BLOCK, dim=2))
        ]
        return self._join(parts[0] if len(parts) == 1 else torch.cat(parts, dim=2))

    def _attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, hidden: torch.Tensor | None, first: int
    ) -> torch.Tensor:
        """Output (B, heads, n, d) for n queries, of which the first is frame `first` of the chunk."""
        # Of query i the keys i-w .. i+w; those outside the chunk are moved inside and made to count for nothing.
        offsets = torch.arange(-self.window, self.window + 1, device=q.device)
        near = torch.arange(first, first + q.shape[2], device=q.device)[:, None] + offsets
        inside = (near >= 0) & (near < k.shape[2])
        near = near.clamp(0, k.shape[2] - 1).expand(*q.shape[:2], -1, -1)

        scores = q @ k.transpose(2, 3)
        relative = (q @ self.emb_rel_k[0].T).masked_fill(~inside, 0)
        scores = scores.scatter_add_(3, near, relative.to(scores.dtype))
        if hidden is not None:
            scores = scores.masked_fill_(hidden, MASKED_SCORE)
        weights = dropout(torch.softmax(scores, dim=3), self.p_dropout, self.training).to(v.dtype)
        near_weights = weights.gather(3, near).masked_fill(~inside, 0)
        return weights @ v + near_weights @ self.emb_rel_v[0]
