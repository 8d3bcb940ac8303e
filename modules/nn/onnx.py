"""Attention in a form that can be written down as a graph of fixed operations for stretches of any length (ONNX).

The exporter follows one stretch and takes as fixed what it cannot see depend on its length: how many blocks of queries
there are, and the lengths in `Tensor.unflatten`.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from modules.nn.attention import CausalAttention, RelativeAttention


class _GraphAttention(nn.Module):
    """What both kinds share.

    Args:
        layer: the attention; its weights are used, not copied.
    """

    def __init__(self, layer: RelativeAttention | CausalAttention) -> None:
        super().__init__()
        self.layer = layer
        self.channels = layer.conv_o.in_channels

    def _project(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Queries, keys and values (1, heads, N, H / heads) of (1, H, N)."""
        n_heads, layer = self.layer.n_heads, self.layer
        rows = (conv(x) for conv in (layer.conv_q, layer.conv_k, layer.conv_v))
        return [row.reshape(1, n_heads, self.channels // n_heads, -1).transpose(2, 3) for row in rows]

    def _join(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer.conv_o(x.transpose(2, 3).reshape(1, self.channels, -1))


class GraphRelativeAttention(_GraphAttention):
    """`RelativeAttention` with all queries at once."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """(1, H, N) to the same; every frame is real, so the mask must be None."""
        assert mask is None
        q, k, v = self._project(x)
        return self._join(self.layer._attend(q / math.sqrt(self.channels // self.layer.n_heads), k, v, None, 0))


class GraphCausalAttention(_GraphAttention):
    """`CausalAttention`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, H, N) to the same."""
        return self._join(F.scaled_dot_product_attention(*self._project(x), is_causal=True))


def replace_layers(network: nn.Module, replacements: dict[type[nn.Module], type[nn.Module]]) -> None:
    """Puts another layer, made from the old one, in the place of every layer of certain kinds below `network`."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in replacements:
                setattr(parent, name, replacements[type(child)](child))


GRAPH_ATTENTION = {RelativeAttention: GraphRelativeAttention, CausalAttention: GraphCausalAttention}
