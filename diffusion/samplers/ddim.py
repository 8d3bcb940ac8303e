"""Deterministic steps of first order, any number of levels at a time.

Source: Song, Meng and Ermon, "Denoising Diffusion Implicit Models", 2021, arXiv:2010.02502, equation 12 with eta 0.
"""

import math

import torch

from diffusion.samplers.base import SAMPLERS, Denoise, levels
from diffusion.schedule import NoiseSchedule


@SAMPLERS.register("ddim")
def ddim(denoise: Denoise, x: torch.Tensor, schedule: NoiseSchedule, k_step: int, speedup: int) -> torch.Tensor:
    """See `base.py`."""
    for level, following in levels(k_step, speedup):
        kept, wanted = (float(schedule.alphas_cumprod[at]) for at in (level, following))
        change = math.sqrt((1 - wanted) / wanted) - math.sqrt((1 - kept) / kept)
        x = math.sqrt(wanted) * (x / math.sqrt(kept) + change * denoise(x, float(level)))
    return x
