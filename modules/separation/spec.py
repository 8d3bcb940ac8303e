"""What a separator is made of, and how its segments follow each other."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class SeparatorSpec:
    """How a separator's networks want their sound."""

    stems: tuple[str, ...]  # what the networks give, in their order
    sampling_rate: int  # Hz
    channels: int  # 1 or 2
    segment: int  # samples that a network sees at once
    hop: int  # samples from one segment's start to the next one's
    fade: int  # samples over which a segment's weight rises and falls
    is_normalised: bool  # whether they want the whole song at mean 0 and standard deviation 1


@dataclass(frozen=True)
class Member:
    """One network of a separator: (B, channels, segment) to (B, stems, channels, segment), float32."""

    network: torch.nn.Module
    weights: tuple[float, ...]  # its share in each stem
