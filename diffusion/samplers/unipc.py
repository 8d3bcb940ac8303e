"""A predictor of second order whose step is corrected with the guess that the next step needs anyway.

Source: Zhao et al., "UniPC", 2023, arXiv:2302.04867, algorithms 1 and 2 with B(h) = e^h - 1 over the clean signal.
"""

import itertools
import math

import torch

from diffusion.samplers._continuous import clean_of, places
from diffusion.samplers.base import SAMPLERS, Denoise
from diffusion.schedule import NoiseSchedule


@SAMPLERS.register("unipc")
def unipc(denoise: Denoise, x: torch.Tensor, schedule: NoiseSchedule, k_step: int, speedup: int) -> torch.Tensor:
    """See `base.py`. The last step is of first order and not corrected."""
    way = places(schedule, k_step, speedup)
    if len(way) == 1:
        return x
    now, before, before_lam = clean_of(denoise, x, way[0]), None, 0.0
    for index, (start, end) in enumerate(itertools.pairwise(way)):
        is_last = index == len(way) - 2
        h = end.lam - start.lam
        decay = math.expm1(-h)
        plain = end.sigma / start.sigma * x - end.alpha * decay * now
        ratio, slope = 0.0, None
        if before is not None:
            ratio = (before_lam - start.lam) / h
            slope = (before - now) / ratio
        second_order = slope is not None and not is_last
        x = plain - end.alpha * decay * 0.5 * slope if second_order else plain
        if is_last:
            break
        ahead = clean_of(denoise, x, end)
        if second_order:
            of_slope, of_change = _corrector(-h, ratio)
            x = plain - end.alpha * decay * (of_slope * slope + of_change * (ahead - now))
        else:
            x = plain - end.alpha * decay * 0.5 * (ahead - now)
        before, before_lam, now = now, start.lam, ahead
    return x


def _corrector(hh: float, ratio: float) -> tuple[float, float]:
    """Weights of the slope before and of the change ahead: [[1, 1], [ratio, 1]] w = b, the paper's equation 5."""
    decay = math.expm1(hh)
    first = (decay / hh - 1) / decay
    second = 2 * ((decay / hh - 1) / hh - 0.5) / decay
    of_slope = (first - second) / (1 - ratio)
    return of_slope, first - of_slope
