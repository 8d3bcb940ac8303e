"""The chain as a curve over continuous time, which the solvers of higher order step along.

Time runs from 1 / N (level 0) to 1 (level N - 1); between two levels log alpha is linear.
"""

from typing import NamedTuple

import numpy as np
import torch

from diffusion.samplers.base import Denoise, n_steps
from diffusion.schedule import NoiseSchedule


class Place(NamedTuple):
    """A point in time."""

    alpha: float  # share of the signal
    sigma: float  # spread of the noise
    lam: float  # log(alpha / sigma)
    level: float  # what the network is given


def places(schedule: NoiseSchedule, k_step: int, speedup: int) -> list[Place]:
    """The ends of `n_steps` steps, evenly spaced in time, from level `k_step` - 1 down to 0."""
    levels = np.linspace(k_step - 1, 0, n_steps(k_step, speedup) + 1)
    log_alpha = np.interp(levels, np.arange(k_step), 0.5 * np.log(schedule.alphas_cumprod[:k_step]))
    alpha = np.exp(log_alpha)
    sigma = np.sqrt(-np.expm1(2 * log_alpha))
    return [Place(*map(float, values)) for values in zip(alpha, sigma, log_alpha - np.log(sigma), levels)]


def clean_of(denoise: Denoise, x: torch.Tensor, at: Place) -> torch.Tensor:
    """The network's guess of the clean signal in `x`."""
    return (x - at.sigma * denoise(x, at.level)) / at.alpha
