"""Gaussian diffusion over mel spectra: adding noise, the training loss, and denoising by any sampler.

Source: Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models", 2020, arXiv:2006.11239, section 2 and equation
14; the start from a given mel is "shallow diffusion" of Liu et al., "DiffSinger", 2021, arXiv:2105.02446, section 3.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from diffusion.samplers.base import sample
from diffusion.schedule import NoiseSchedule
from diffusion.wavenet import WaveNet

# Natural-log mel values that are mapped to -1 and 1.
LOWEST_MEL, HIGHEST_MEL = -12.0, 2.0


class GaussianDiffusion(nn.Module):
    """A chain of `timesteps` noise levels round a denoiser, of which `k_step_max` are trained."""

    def __init__(self, denoise_fn: WaveNet, timesteps: int, k_step_max: int) -> None:
        super().__init__()
        self.denoise_fn = denoise_fn
        self.schedule = NoiseSchedule(timesteps)
        self.k_step_max = k_step_max
        for name, values in self.schedule.buffers().items():
            self.register_buffer(name, values)
        self.register_buffer("spec_min", torch.full((1, 1, 1), LOWEST_MEL))
        self.register_buffer("spec_max", torch.full((1, 1, 1), HIGHEST_MEL))

    def normalise(self, mel: torch.Tensor) -> torch.Tensor:
        """Natural-log mel (B, M, N) to the scale of the chain, about -1 to 1."""
        return (mel - self.spec_min) / (self.spec_max - self.spec_min) * 2 - 1

    def denormalise(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of `normalise`."""
        return (x + 1) / 2 * (self.spec_max - self.spec_min) + self.spec_min

    def add_noise(self, x: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """`x` (B, 1, M, N) with the noise of level `t` (B,) in it."""
        kept = self.sqrt_alphas_cumprod[t][:, None, None, None]
        return kept * x + self.sqrt_one_minus_alphas_cumprod[t][:, None, None, None] * noise

    def loss(self, condition: torch.Tensor, mel: torch.Tensor, level: int | None = None) -> torch.Tensor:
        """Mean square error of the noise guessed at random levels, or at a given one from 0 to timesteps - 1.

        Condition (B, H, N), `mel` (B, M, N) natural log. Draws torch.randint (B,), then torch.randn (B, 1, M, N).
        """
        x = self.normalise(mel.float())[:, None]
        if level is None:
            t = torch.randint(0, self.k_step_max, (len(x),), device=x.device)
        else:
            t = torch.full((len(x),), level, device=x.device)
        noise = torch.randn_like(x)
        guess = self.denoise_fn(self.add_noise(x, t, noise), t, condition)
        return F.mse_loss(guess.float(), noise)

    @torch.inference_mode()
    def sample(
        self,
        condition: torch.Tensor,
        k_step: int,
        method: str | None,
        speedup: int,
        mel: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> torch.Tensor:
        """A mel (B, M, N) float32 natural log: from noise, or from a given mel by `k_step` levels of noise and back.

        Condition (B, H, N); `noise` (B, 1, M, N) to start with, drawn where None; `mask` (B, 1, N), 0 beyond the end of
        an item. The rest as `diffusion.samplers.base.sample`.
        """
        if mel is not None and k_step == 0:
            return mel.float()
        shape = (len(condition), 1, self.denoise_fn.output_projection.out_channels, condition.shape[2])
        if noise is None:
            noise = torch.randn(shape, device=condition.device)
        x = noise
        if mel is not None:
            level = torch.full((len(mel),), k_step - 1, device=mel.device)
            x = self.add_noise(self.normalise(mel.float())[:, None], level, noise)
        projections = self.denoise_fn.project(condition)

        def denoise(x: torch.Tensor, t: float) -> torch.Tensor:
            return self.denoise_fn.denoise(x, torch.full((1,), t, device=x.device), projections, mask)

        return self.denormalise(sample(method, denoise, x, self.schedule, k_step, speedup, progress)[:, 0])
