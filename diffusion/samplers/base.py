"""What all samplers share: their table, the checks, and how often each asks the network.

A sampler is one function in one file of this folder:

    sampler(denoise, x, schedule, k_step, speedup) -> x

`denoise(x, t)` gives the noise in `x` (B, 1, M, N) at level `t`, a float from 0 to k_step - 1. `x` has the noise of
level k_step - 1. About every `speedup`-th level is visited on the way down to level 0.
"""

import logging
from collections.abc import Callable
from functools import cache

import torch

from diffusion.schedule import NoiseSchedule
from modules.errors import ConfigError
from modules.registry import Registry, unknown_name

logger = logging.getLogger(__name__)

Denoise = Callable[[torch.Tensor, float], torch.Tensor]

SAMPLERS: Registry = Registry("sampler", "diffusion.samplers")

# Evaluations of the network below which a method cannot reach its order.
_FULL_ORDER = {"pndm": 4, "dpm-solver": 2, "dpm-solver++": 2, "unipc": 2}


def check_method(method: str | None, where: object) -> None:
    """Refuses a name `infer.method` of the config `where` that no sampler has; None is none."""
    if method is not None and method not in SAMPLERS:
        raise ConfigError(f"{where}: infer.method: {unknown_name('sampler', method, SAMPLERS.names())}")


def sample(
    method: str | None,
    denoise: Denoise,
    x: torch.Tensor,
    schedule: NoiseSchedule,
    k_step: int,
    speedup: int,
    progress: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Runs the chain backwards from `x` (B, 1, M, N) over `k_step` levels, 0 to timesteps, to the same in float32.

    A method of None, or a `speedup` (levels per evaluation) of 1, means every level of the ancestral chain ("ddpm").
    `progress` is called with 1 after each evaluation, `n_evaluations` times.
    """
    if not 0 <= k_step <= schedule.timesteps or speedup < 1:
        raise ValueError(f"k_step {k_step} of {schedule.timesteps}, speedup {speedup}: out of range")
    name = _chosen(method, speedup)
    sampler = SAMPLERS.get(name)
    if k_step == 0:
        return x
    evaluations = n_evaluations(method, k_step, speedup)
    if 0 < evaluations < _FULL_ORDER.get(name, 0):
        _say_order_is_lower(name, k_step, speedup, evaluations)

    def counted(x: torch.Tensor, t: float) -> torch.Tensor:
        noise = denoise(x, t)
        if progress is not None:
            progress(1)
        return noise

    return sampler(counted, x.float(), schedule, k_step, speedup)


def n_evaluations(method: str | None, k_step: int, speedup: int) -> int:
    """How often `sample` asks the network."""
    name = _chosen(method, speedup)
    if k_step == 0:
        return 0
    if name == "ddpm":
        return -(-k_step // speedup)
    if name in ("ddim", "pndm"):
        return len(levels(k_step, speedup)) + (name == "pndm")
    return n_steps(k_step, speedup)


def levels(k_step: int, speedup: int) -> list[tuple[int, int]]:
    """(from, to) of each step of the methods that go from level to level; the last one stays at 0.

    With `k_step` not above `speedup` upstream would not move at all; here the first step then comes from the top.
    """
    stride = min(speedup, max(1, k_step - 1))
    return [(level, max(level - stride, 0)) for level in reversed(range(0, k_step, stride))]


def is_ancestral(method: str | None, speedup: int) -> bool:
    """Whether `sample` draws fresh noise on the way."""
    return _chosen(method, speedup) == "ddpm"


def n_steps(k_step: int, speedup: int) -> int:
    """Steps of a solver that divides the way evenly: none where level 0 is reached already."""
    return max(1, k_step // speedup) if k_step > 1 else 0


def _chosen(method: str | None, speedup: int) -> str:
    return "ddpm" if method is None or speedup <= 1 else method


@cache
def _say_order_is_lower(name: str, k_step: int, speedup: int, evaluations: int) -> None:
    """Once for each case in the life of the program."""
    times = f"{evaluations} evaluation{'' if evaluations == 1 else 's'} of the network"
    remedy = "so it runs at a lower order; a smaller speedup (infer.speedup) is more exact"
    logger.info("%s: k_step %d at speedup %d is %s, %s", name, k_step, speedup, times, remedy)
