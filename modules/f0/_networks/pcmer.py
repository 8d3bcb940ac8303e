"""PCmer, the network of so-vits-svc's `fcpe.pt`: convolutions and linear attention; parameter names as in that file.

Sources: Gulati and others, "Conformer: Convolution-augmented Transformer for Speech Recognition", 2020, arXiv
2005.08100 (the convolution module); Choromanski and others, "Rethinking Attention with Performers", 2020, arXiv
2009.14794 (attention by random features, equation 5 and section 2.4).
"""

import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

_KEY_OFFSET = 1e-4  # inside the exponential of the keys, outside that of the queries, as the weights were trained with


@dataclass(frozen=True)
class PcmerSizes:
    """What varies from file to file; the defaults are so-vits-svc's."""

    n_mels: int = 128
    channels: int = 512  # width of the network
    layers: int = 12  # of attention and convolution
    heads: int = 8
    head_width: int = 64
    features: int = 266  # random ones of the attention
    kernel: int = 31  # of the convolution over time
    bins: int = 360

    @classmethod
    def of(cls, weights: dict[str, torch.Tensor]) -> "PcmerSizes":
        """The sizes that the tensors of a file show; a KeyError or ValueError where one is missing."""
        numbers = {int(match[1]) for key in weights if (match := re.match(r"decoder\._layers\.(\d+)\.", key))}
        features, head_width = weights["decoder._layers.0.attn.fast_attention.projection_matrix"].shape
        return cls(
            n_mels=weights["stack.0.weight"].shape[1],
            channels=weights["stack.0.weight"].shape[0],
            layers=max(numbers) + 1,
            heads=weights["decoder._layers.0.attn.to_q.weight"].shape[0] // head_width,
            head_width=head_width,
            features=features,
            kernel=weights["decoder._layers.0.conformer.net.4.conv.weight"].shape[2],
            bins=weights["dense_out.bias"].shape[0],
        )


class Pcmer(nn.Module):
    """Log mel to scores over pitch bins, whose pitch is in the buffer `cent_table` (bins,), in cents above 10 Hz."""

    def __init__(self, sizes: PcmerSizes = PcmerSizes()) -> None:
        super().__init__()
        width = sizes.channels
        self.stack = nn.Sequential(
            nn.Conv1d(sizes.n_mels, width, 3, padding=1),
            nn.GroupNorm(4, width),
            nn.LeakyReLU(),
            nn.Conv1d(width, width, 3, padding=1),
        )
        self.decoder = nn.Module()
        self.decoder._layers = nn.ModuleList(_Layer(sizes) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(width)
        self.dense_out = _NormedLinear(width, sizes.bins)
        self.register_buffer("cent_table", torch.zeros(sizes.bins))

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        """Scores (B, n, bins), 0 to 1, of a log mel (B, n_mels, n)."""
        x = self.stack(mel).transpose(1, 2)
        for layer in self.decoder._layers:
            x = layer(x)
        return torch.sigmoid(self.dense_out(self.norm(x)))


class _Layer(nn.Module):
    def __init__(self, sizes: PcmerSizes) -> None:
        super().__init__()
        inner = 2 * sizes.channels
        self.conformer = nn.Module()
        self.conformer.net = nn.Sequential(
            nn.LayerNorm(sizes.channels),
            _Transpose(),
            nn.Conv1d(sizes.channels, 2 * inner, 1),
            nn.GLU(dim=1),
            _Depthwise(inner, sizes.kernel),
            nn.SiLU(),
            nn.Conv1d(inner, sizes.channels, 1),
            _Transpose(),
        )
        self.norm = nn.LayerNorm(sizes.channels)
        self.attn = _Attention(sizes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm(x))
        return x + self.conformer.net(x)


class _Transpose(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)


class _Depthwise(nn.Module):
    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.padding = (kernel // 2, (kernel - 1) // 2)
        self.conv = nn.Conv1d(channels, channels, kernel, groups=channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.pad(x, self.padding))


class _Attention(nn.Module):
    """Attention whose cost is linear in time: every frame attends to every other through a fixed number of features."""

    def __init__(self, sizes: PcmerSizes) -> None:
        super().__init__()
        inner = sizes.heads * sizes.head_width
        self.heads = sizes.heads
        self.fast_attention = nn.Module()
        self.fast_attention.register_buffer("projection_matrix", torch.zeros(sizes.features, sizes.head_width))
        self.to_q = nn.Linear(sizes.channels, inner)
        self.to_k = nn.Linear(sizes.channels, inner)
        self.to_v = nn.Linear(sizes.channels, inner)
        self.to_out = nn.Linear(inner, sizes.channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.to_q, self.to_k, self.to_v)
        )
        query, key = self._features(query, is_query=True), self._features(key, is_query=False)
        attended = query @ (key.transpose(2, 3) @ value)
        normalizer = (query * key.sum(dim=2, keepdim=True)).sum(dim=3, keepdim=True) + 1e-8
        return self.to_out((attended / normalizer).transpose(1, 2).flatten(2))

    def _features(self, x: torch.Tensor, is_query: bool) -> torch.Tensor:
        """Positive features (B, H, n, features) whose products approach exp(q k / sqrt(d)), of (B, H, n, d)."""
        projection = self.fast_attention.projection_matrix
        x = x * x.shape[3] ** -0.25
        projected = x @ projection.T
        exponent = projected - x.square().sum(dim=3, keepdim=True) / 2
        if is_query:
            # A factor for each frame, which the normalizer cancels, keeps the exponential in range.
            features = torch.exp(exponent - projected.amax(dim=3, keepdim=True)) + _KEY_OFFSET
        else:
            features = torch.exp(exponent + _KEY_OFFSET)
        return features * projection.shape[0] ** -0.5


class _NormedLinear(nn.Module):
    """A linear layer stored as direction and length of each row: the older form of weight normalisation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(outputs, 1))
        self.weight_v = nn.Parameter(torch.ones(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight_g * self.weight_v / self.weight_v.norm(dim=1, keepdim=True)
        return F.linear(x, weight, self.bias)
