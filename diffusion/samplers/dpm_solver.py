"""Exponential integrators of second order over the log signal-to-noise ratio.

Source: Lu et al., "DPM-Solver", 2022, arXiv:2206.00927, equation 3.4 and appendix B; Lu et al., "DPM-Solver++", 2022,
arXiv:2211.01095, algorithm 2. Both as multistep methods, with midpoint differences.
"""

import itertools
import math
from collections.abc import Callable
from functools import partial

import torch

from diffusion.samplers._continuous import Place, clean_of, places
from diffusion.samplers.base import SAMPLERS, Denoise
from diffusion.schedule import NoiseSchedule

# Below this many steps the last one is of first order, which is steadier.
_FEW_STEPS = 10


@SAMPLERS.register("dpm-solver")
def dpm_solver(denoise: Denoise, x: torch.Tensor, schedule: NoiseSchedule, k_step: int, speedup: int) -> torch.Tensor:
    """See `base.py`. Extrapolates the noise."""

    def step(x: torch.Tensor, start: Place, end: Place, noise: torch.Tensor, slope: torch.Tensor | None):
        growth = math.expm1(end.lam - start.lam)
        x = end.alpha / start.alpha * x - end.sigma * growth * noise
        return x if slope is None else x - 0.5 * end.sigma * growth * slope

    def noise_of(x: torch.Tensor, at: Place) -> torch.Tensor:
        return denoise(x, at.level)

    return _multistep(noise_of, x, places(schedule, k_step, speedup), step)


@SAMPLERS.register("dpm-solver++")
def dpm_solver_plus_plus(
    denoise: Denoise, x: torch.Tensor, schedule: NoiseSchedule, k_step: int, speedup: int
) -> torch.Tensor:
    """See `base.py`. Extrapolates the clean signal, which stays in its range."""

    def step(x: torch.Tensor, start: Place, end: Place, clean: torch.Tensor, slope: torch.Tensor | None):
        decay = math.expm1(start.lam - end.lam)
        x = end.sigma / start.sigma * x - end.alpha * decay * clean
        return x if slope is None else x - 0.5 * end.alpha * decay * slope

    return _multistep(partial(clean_of, denoise), x, places(schedule, k_step, speedup), step)


def _multistep(
    guess: Callable[[torch.Tensor, Place], torch.Tensor], x: torch.Tensor, way: list[Place], step: Callable
) -> torch.Tensor:
    """Steps along `way`, each with what `guess` gives at its start and how that has changed since the last one.

    `step` is (x, start, end, guess, slope or None) -> x.
    """
    last = len(way) - 2
    before, before_lam = None, 0.0
    for index, (start, end) in enumerate(itertools.pairwise(way)):
        now = guess(x, start)
        slope = None
        if index > 0 and not (index == last and last + 1 < _FEW_STEPS):
            ratio = (start.lam - before_lam) / (end.lam - start.lam)
            slope = (now - before) / ratio
        x = step(x, start, end, now, slope)
        before, before_lam = now, start.lam
    return x
