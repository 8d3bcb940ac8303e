"""Ancestral sampling: a step back to the mean of what can have been, with fresh noise.

Source: Ho, Jain and Abbeel, 2020, arXiv:2006.11239, algorithm 2; for strides, Nichol and Dhariwal, "Improved Denoising
Diffusion Probabilistic Models", 2021, arXiv:2102.09672, section 4.
"""

import math

import torch

from diffusion.samplers.base import SAMPLERS, Denoise
from diffusion.schedule import NoiseSchedule

_SMALLEST_VARIANCE = 1e-20


@SAMPLERS.register("ddpm")
def ddpm(denoise: Denoise, x: torch.Tensor, schedule: NoiseSchedule, k_step: int, speedup: int) -> torch.Tensor:
    """See `base.py`. Draws torch.randn of the shape of `x` for every level that it visits; clamps its guess to +-1."""
    for level in range(k_step - 1, -1, -speedup):
        kept = float(schedule.alphas_cumprod[level])
        before = float(schedule.alphas_cumprod[level - speedup]) if level >= speedup else 1.0
        noise = denoise(x, float(level))
        clean = (x / math.sqrt(kept) - math.sqrt(1 / kept - 1) * noise).clamp(-1, 1)
        beta = 1 - kept / before
        mean = beta * math.sqrt(before) / (1 - kept) * clean + (1 - before) * math.sqrt(kept / before) / (1 - kept) * x
        spread = math.sqrt(max(beta * (1 - before) / (1 - kept), _SMALLEST_VARIANCE))
        fresh = torch.randn(x.shape, device=x.device)
        x = mean + spread * fresh if level >= speedup else mean
    return x
