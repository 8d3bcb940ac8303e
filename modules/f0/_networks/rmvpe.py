"""RMVPE's network: a U-net over the log mel, then a GRU over time; parameter names as in the published `rmvpe.pt`.

Source: Wei, Cao, Dan and Chen, "RMVPE: A Robust Model for Vocal Pitch Estimation in Polyphonic Music", 2023,
arXiv 2306.15412. The published file also holds a "timbre filter" for the U-net's shortcuts, which nothing runs.
"""

import re
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn


@dataclass(frozen=True)
class RmvpeSizes:
    """What varies from file to file; the defaults are the published network."""

    channels: int = 16  # of the first level; each further level has twice as many
    levels: int = 5  # that halve time and frequency
    middle_layers: int = 4  # at the bottom of the U
    blocks: int = 4  # in each layer
    maps: int = 3  # that the U-net hands to the GRU
    n_mels: int = 128
    hidden: int = 256  # GRU units in each direction
    gru_layers: int = 1
    bins: int = 360

    @classmethod
    def of(cls, weights: dict[str, torch.Tensor]) -> "RmvpeSizes":
        """The sizes that the tensors of a file show; a KeyError or ValueError where one is missing."""
        maps, channels = weights["cnn.weight"].shape[:2]
        return cls(
            channels=channels,
            levels=_count(weights, r"unet\.encoder\.layers\.(\d+)\."),
            middle_layers=_count(weights, r"unet\.intermediate\.layers\.(\d+)\."),
            blocks=_count(weights, r"unet\.encoder\.layers\.0\.conv\.(\d+)\."),
            maps=maps,
            n_mels=weights["fc.0.gru.weight_ih_l0"].shape[1] // maps,
            hidden=weights["fc.0.gru.weight_hh_l0"].shape[1],
            gru_layers=_count(weights, r"fc\.0\.gru\.weight_hh_l(\d+)$"),
            bins=weights["fc.1.weight"].shape[0],
        )


def _count(weights: dict[str, torch.Tensor], pattern: str) -> int:
    numbers = {int(match[1]) for key in weights if (match := re.match(pattern, key))}
    if not numbers:
        raise KeyError(pattern)
    return max(numbers) + 1


class Rmvpe(nn.Module):
    """Log mel to scores over pitch bins."""

    def __init__(self, sizes: RmvpeSizes = RmvpeSizes()) -> None:
        super().__init__()
        self.multiple = 2**sizes.levels
        self.unet = _Unet(sizes)
        self.cnn = nn.Conv2d(sizes.channels, sizes.maps, 3, padding=1)
        gru = nn.GRU(sizes.maps * sizes.n_mels, sizes.hidden, sizes.gru_layers, batch_first=True, bidirectional=True)
        self.fc = nn.ModuleList([nn.ModuleDict({"gru": gru}), nn.Linear(2 * sizes.hidden, sizes.bins)])

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        """Scores (B, n, bins), 0 to 1, of a log mel (B, n_mels, n); n must be a multiple of `multiple`."""
        maps = self.cnn(self.unet(mel.transpose(1, 2).unsqueeze(1)))
        recurrent, _ = self.fc[0]["gru"](maps.transpose(1, 2).flatten(2))
        return torch.sigmoid(self.fc[1](recurrent))


class _Unet(nn.Module):
    def __init__(self, sizes: RmvpeSizes) -> None:
        super().__init__()
        widths = [sizes.channels * 2**level for level in range(sizes.levels + 1)]
        self.encoder = nn.Module()
        self.encoder.bn = nn.BatchNorm2d(1)
        self.encoder.layers = _levels([1, *widths[:-1]], sizes.blocks)
        self.intermediate = nn.Module()
        self.intermediate.layers = _levels([widths[-2], *[widths[-1]] * sizes.middle_layers], sizes.blocks)
        self.decoder = nn.Module()
        self.decoder.layers = nn.ModuleList(
            _UpLayer(before, after, sizes.blocks) for before, after in pairwise(reversed(widths))
        )
        self.halve = nn.AvgPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, n, n_mels) to (B, channels, n, n_mels)."""
        x = self.encoder.bn(x)
        shortcuts = []
        for layer in self.encoder.layers:
            shortcuts.append(layer["conv"](x))
            x = self.halve(shortcuts[-1])
        for layer in self.intermediate.layers:
            x = layer["conv"](x)
        for layer in self.decoder.layers:
            x = layer(x, shortcuts.pop())
        return x


class _UpLayer(nn.Module):
    def __init__(self, before: int, after: int, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        )
        self.conv2 = _blocks(2 * after, after, blocks)

    def forward(self, x: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        return self.conv2(torch.cat([self.conv1(x), shortcut], dim=1))


def _levels(widths: list[int], blocks: int) -> nn.ModuleList:
    return nn.ModuleList(nn.ModuleDict({"conv": _blocks(*pair, blocks)}) for pair in pairwise(widths))


def _blocks(before: int, after: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(_Residual(before, after), *(_Residual(after, after) for _ in range(blocks - 1)))


class _Residual(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        )
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) + self.shortcut(x)
