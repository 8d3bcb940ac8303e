"""Exponential integrators of second order over the log signal-to-noise ratio.

Source: Lu et al., "DPM-Solver", 2022, arXiv:2206.00927, equation 3.4 and appendix B; Lu et al., "DPM-Solver++", 2022,
arXiv:2211.01095, algorithm 2. Both as multistep methods, with midpoint differences.
"""

import itertools
import math

import torch

from diffusion.samplers._continuous import Place, places
from diffusion.samplers.base import SAMPLERS, Denoise, n_steps
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

    return _multistep(denoise, x, places(schedule, k_step, n_steps(k_step, speedup)), step)


@SAMPLERS.register("dpm-solver++")
def dpm_solver_plus_plus(
    denoise: Denoise, x: torch.Tensor, schedule: NoiseSchedule, k_step: int, speedup: int
) -> torch.Tensor:
    """See `base.py`. Extrapolates the clean signal, which stays in its range."""

    def step(x: torch.Tensor, start: Place, end: Place, clean: torch.Tensor, slope: torch.Tensor | None):
        decay = math.expm1(start.lam - end.lam)
        x = end.sigma / start.sigma * x - end.alpha * decay * clean
        return x if slope is None else x - 0.5 * end.alpha * decay * slope

    def clean_of(x: torch.Tensor, at: Place) -> torch.Tensor:
        return (x - at.sigma * denoise(x, at.level)) / at.alpha

    return _multistep(None, x, places(schedule, k_step, n_steps(k_step, speedup)), step, clean_of)


def _multistep(denoise, x, way: list[Place], step, guess=None) -> torch.Tensor:
    """Steps along `way`, each with what the network says at its start and how that has changed since the last one.

    Args:
        denoise: the network, where its noise is what is extrapolated.
        x: the start.
        way: points in time.
        step: (x, start, end, guess, slope or None) -> x.
        guess: (x, place) -> what is extrapolated, where that is not the noise.
    """
    last = len(way) - 2
    before, before_lam = None, 0.0
    for index, (start, end) in enumerate(itertools.pairwise(way)):
        now = denoise(x, start.level) if guess is None else guess(x, start)
        slope = None
        if index > 0 and not (index == last and last + 1 < _FEW_STEPS):
            ratio = (start.lam - before_lam) / (end.lam - start.lam)
            slope = (now - before) / ratio
        x = step(x, start, end, now, slope)
        before, before_lam = now, start.lam
    return x
