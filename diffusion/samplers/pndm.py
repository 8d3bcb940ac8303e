"""Linear multistep: the noise of a step is extrapolated from that of the last three.

Source: Liu, Ren, Lin and Zhao, "Pseudo Numerical Methods for Diffusion Models on Manifolds", 2022, arXiv:2202.09778,
equations 9 (the transfer), 11 and 12.
"""

import math

import torch

from diffusion.samplers.base import SAMPLERS, Denoise, levels
from diffusion.schedule import NoiseSchedule

# Adams-Bashforth weights, newest first, for as many guesses as there are.
_WEIGHTS = {
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


@SAMPLERS.register("pndm")
def pndm(denoise: Denoise, x: torch.Tensor, schedule: NoiseSchedule, k_step: int, speedup: int) -> torch.Tensor:
    """See `base.py`. The first step looks ahead once, so there is one evaluation more than levels visited."""
    guesses: list[torch.Tensor] = []
    for level, following in levels(k_step, speedup):
        kept, wanted = (float(schedule.alphas_cumprod[at]) for at in (level, following))
        guesses = [denoise(x, float(level)), *guesses[:3]]
        if len(guesses) == 1:
            ahead = denoise(transfer(x, guesses[0], kept, wanted), float(following))
            noise = (guesses[0] + ahead) / 2
        else:
            noise = sum(weight * guess for weight, guess in zip(_WEIGHTS[len(guesses)], guesses))
        x = transfer(x, noise, kept, wanted)
    return x


def transfer(x: torch.Tensor, noise: torch.Tensor, kept: float, wanted: float) -> torch.Tensor:
    """`x` moved from one level to another along its noise; the levels are given as shares of the signal."""
    of_x = 1 / (math.sqrt(kept) * (math.sqrt(kept) + math.sqrt(wanted)))
    of_noise = 1 / (math.sqrt(kept) * (math.sqrt((1 - wanted) * kept) + math.sqrt((1 - kept) * wanted)))
    return x + (wanted - kept) * (of_x * x - of_noise * noise)
