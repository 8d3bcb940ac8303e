"""The networks around the latent: prior, posterior, and the F0 predictor of a voice.

Letters: B batch, H hidden channels, I latent channels, F spectrum bins, N frames. A mask is (B, 1, N) bool; None means
that every frame is real.

Source: Kim, Kong and Son, "Conditional Variational Autoencoder with Adversarial Learning for End-to-End
Text-to-Speech", 2021, arXiv:2106.06103, section 2.4.
"""

import torch
from torch import nn

from modules.nn.transformer import CausalTransformer, RelativeTransformer, TransformerSpec
from modules.nn.wavenet import WaveNet

COARSE_STEPS = 256
LATENT_KERNEL = 5
POSTERIOR_LAYERS = 16


def sample(
    mean: torch.Tensor, log_deviation: torch.Tensor, noise_scale: float = 1.0, noise: torch.Tensor | None = None
) -> torch.Tensor:
    """One draw of the normal distribution; `noise`, of the mean's shape, is drawn here unless it is given."""
    if noise is None:
        noise = torch.randn_like(mean, dtype=torch.float32)  # so every precision gets the same
    return mean + noise.to(mean.dtype) * torch.exp(log_deviation) * noise_scale


class PriorEncoder(nn.Module):
    """Content and pitch to the prior of the latent."""

    def __init__(self, spec: TransformerSpec, inter_channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv1d(spec.channels, 2 * inter_channels, 1)
        self.f0_emb = nn.Embedding(COARSE_STEPS, spec.channels)
        self.enc_ = RelativeTransformer(spec)

    def forward(
        self,
        x: torch.Tensor,
        coarse_f0: torch.Tensor,
        mask: torch.Tensor | None,
        noise_scale: float = 1.0,
        noise: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A sample of the prior, its mean and log deviation, (B, I, N) each, zero at padded frames.

        Of content (B, H, N) and F0 (B, N) int64, 0 to 255. The sample gets `noise_scale` of the deviation; `noise`
        (B, I, N) is standard normal, drawn where None.
        """
        x = self.enc_(x + self.f0_emb(coarse_f0).transpose(1, 2), mask)
        stats = self.proj(x)
        mean, log_deviation = (stats if mask is None else stats * mask).chunk(2, dim=1)
        z = sample(mean, log_deviation, noise_scale, noise)
        return z if mask is None else z * mask, mean, log_deviation


class PosteriorEncoder(nn.Module):
    """The spectrum of a recording to the posterior of the latent; used in training only."""

    def __init__(
        self, spec_channels: int, inter_channels: int, hidden_channels: int, gin_channels: int, depthwise: bool
    ) -> None:
        super().__init__()
        self.pre = nn.Conv1d(spec_channels, hidden_channels, 1)
        self.enc = WaveNet(hidden_channels, LATENT_KERNEL, POSTERIOR_LAYERS, gin_channels, depthwise)
        self.proj = nn.Conv1d(hidden_channels, 2 * inter_channels, 1)

    def forward(
        self, spec: torch.Tensor, mask: torch.Tensor, g: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, F, N), mask and speaker (B, gin, 1) to a sample, mean and log deviation, (B, I, N) each."""
        x = self.enc(self.pre(spec) * mask, mask, g)
        mean, log_deviation = (self.proj(x) * mask).chunk(2, dim=1)
        return sample(mean, log_deviation) * mask, mean, log_deviation


class PitchDecoder(nn.Module):
    """Predicts the F0 of a voice from content and a normalised F0."""

    def __init__(self, spec: TransformerSpec, gin_channels: int) -> None:
        super().__init__()
        self.prenet = nn.Conv1d(spec.channels, spec.channels, 3, padding=1)
        self.decoder = CausalTransformer(spec)
        self.proj = nn.Conv1d(spec.channels, 1, 1)
        self.f0_prenet = nn.Conv1d(1, spec.channels, 3, padding=1)
        self.cond = nn.Conv1d(gin_channels, spec.channels, 1)

    def forward(
        self, x: torch.Tensor, norm_lf0: torch.Tensor, mask: torch.Tensor | None, g: torch.Tensor
    ) -> torch.Tensor:
        """F0 (B, 1, N) on the scaled mel axis, from content (B, H, N), which gets no gradient from here."""
        x = self.prenet(x.detach() + self.cond(g) + self.f0_prenet(norm_lf0.to(x.dtype)))
        x = self.proj(self.decoder(x if mask is None else x * mask, mask))
        return x if mask is None else x * mask
