"""The chain as a curve over continuous time, which the solvers of higher order step along.

Time runs from 1 / N (level 0) to 1 (level N - 1); between two levels log alpha is linear.
"""

from typing import NamedTuple

import numpy as np

from diffusion.schedule import NoiseSchedule


class Place(NamedTuple):
    """A point in time: share `alpha` of the signal, spread `sigma` of the noise, half the log of their ratio squared
    (`lam`), and the level that the network is told."""

    alpha: float
    sigma: float
    lam: float
    level: float


def places(schedule: NoiseSchedule, k_step: int, n_steps: int) -> list[Place]:
    """The `n_steps` + 1 points, evenly spaced in time, from level `k_step` - 1 down to 0."""
    levels = np.linspace(k_step - 1, 0, n_steps + 1)
    log_alpha = np.interp(levels, np.arange(k_step), 0.5 * np.log(schedule.alphas_cumprod[:k_step]))
    alpha = np.exp(log_alpha)
    sigma = np.sqrt(-np.expm1(2 * log_alpha))
    return [Place(*map(float, values)) for values in zip(alpha, sigma, log_alpha - np.log(sigma), levels)]
