"""The noise levels of the chain, and what follows from them, in double precision.

Source: Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models", 2020, arXiv:2006.11239, equations 4 to 7.
"""

import numpy as np
import torch

FIRST_BETA, LAST_BETA = 1e-4, 0.02


class NoiseSchedule:
    """Levels 0 to `timesteps` - 1, each noisier than the one before."""

    def __init__(self, timesteps: int) -> None:
        self.timesteps = timesteps
        self.betas = np.linspace(FIRST_BETA, LAST_BETA, timesteps)  # float64, variance added at each level
        self.alphas_cumprod = np.cumprod(1 - self.betas)  # share of the signal's variance that is left at each level

    def buffers(self) -> dict[str, torch.Tensor]:
        """Everything that published checkpoints store of the chain: name -> (timesteps,) float32."""
        kept = self.alphas_cumprod
        before = np.append(1.0, kept[:-1])
        variance = self.betas * (1 - before) / (1 - kept)
        values = {
            "betas": self.betas,
            "alphas_cumprod": kept,
            "alphas_cumprod_prev": before,
            "sqrt_alphas_cumprod": np.sqrt(kept),
            "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - kept),
            "log_one_minus_alphas_cumprod": np.log(1 - kept),
            "sqrt_recip_alphas_cumprod": np.sqrt(1 / kept),
            "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / kept - 1),
            "posterior_variance": variance,
            "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
            "posterior_mean_coef1": self.betas * np.sqrt(before) / (1 - kept),
            "posterior_mean_coef2": (1 - before) * np.sqrt(1 - self.betas) / (1 - kept),
        }
        return {name: torch.from_numpy(array).float() for name, array in values.items()}
