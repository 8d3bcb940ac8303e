"""The invertible map between the posterior's and the prior's latent space.

x is (B, I, N); mask (B, 1, N), or None if every frame is real; g (B, gin, 1 or N) the speaker vector.

Source: Dinh et al., "Density estimation using Real NVP", 2016, arXiv:1605.08803, section 3.2, with shifts only;
Kim et al., "Conditional Variational Autoencoder with Adversarial Learning for End-to-End Text-to-Speech", 2021,
arXiv:2106.06103, section 2.2.
"""

from collections.abc import Callable

import torch
from torch import nn


class Coupling(nn.Module):
    """Shifts half of the I channels by a function of the other half, at whose core `network` maps (B, H, N) to itself.

    The network is called as network(x, mask, g) and may be shared with other couplings.
    """

    def __init__(self, channels: int, hidden_channels: int, network: nn.Module) -> None:
        super().__init__()
        self.pre = nn.Conv1d(channels // 2, hidden_channels, 1)
        self.enc = network
        self.post = nn.Conv1d(hidden_channels, channels // 2, 1)
        # Starts as the identity map.
        nn.init.zeros_(self.post.weight)
        nn.init.zeros_(self.post.bias)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None, g: torch.Tensor, reverse: bool = False
    ) -> torch.Tensor:
        """(B, I, N) to the same shape; with `reverse` the exact inverse."""
        kept, moved = x.chunk(2, dim=1)
        hidden = self.pre(kept)
        shift = self.post(self.enc(hidden if mask is None else hidden * mask, mask, g))
        moved = moved - shift if reverse else moved + shift
        return torch.cat([kept, moved if mask is None else moved * mask], dim=1)


class Flip(nn.Module):
    """Reverses the channels, so that the next coupling moves the other half; its own inverse."""

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None, g: torch.Tensor, reverse: bool = False
    ) -> torch.Tensor:
        """(B, I, N) to the same shape."""
        return x.flip(1)


class CouplingFlow(nn.Module):
    """`n_flows` couplings, each followed by a flip; with `share`, one network serves all of them: checkpoints then
    have its weights under `wn.` and under every `flows.i.enc.`, as published ones do."""

    def __init__(
        self,
        channels: int,
        hidden_channels: int,
        n_flows: int,
        make_network: Callable[[], nn.Module],
        share: bool = False,
    ) -> None:
        super().__init__()
        self.flows = nn.ModuleList()
        self.wn = make_network() if share else None
        for _ in range(n_flows):
            self.flows.append(Coupling(channels, hidden_channels, self.wn if share else make_network()))
            self.flows.append(Flip())

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None, g: torch.Tensor, reverse: bool = False
    ) -> torch.Tensor:
        """From the posterior's space to the prior's, or with `reverse` back."""
        for flow in reversed(self.flows) if reverse else self.flows:
            x = flow(x, mask, g, reverse)
        return x
