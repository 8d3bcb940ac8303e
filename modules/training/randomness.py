"""The state of every random number generator that a training may draw from, as plain tensors for a checkpoint."""

import random

import numpy as np
import torch

from modules.training.distributed import Group

_PYTHON_VERSION = 3  # of `random.getstate()`, the same since Python 3.2
_RANK_STRIDE = 1_000_003  # between the seeds of two ranks; more than a run has steps


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Where the generators of torch, Python and numpy are: one tensor for each, of the same length in every process."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    _, numbers, _ = random.getstate()
    states["python"] = torch.tensor(numbers, dtype=torch.int64)
    _, keys, position, _, _ = np.random.get_state()  # noqa: NPY002
    states["numpy"] = torch.tensor([*keys.tolist(), position], dtype=torch.int64)
    return states


def set_random_state(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Puts the generators where `states` says; those that it does not name are left as they are."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"].clone())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].clone(), device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"].clone())
    if "python" in states:
        random.setstate((_PYTHON_VERSION, tuple(states["python"].tolist()), None))
    if "numpy" in states:
        *keys, position = states["numpy"].tolist()
        np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position))  # noqa: NPY002


def seed_all(seed: int) -> None:
    """Seeds every generator."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002


def seed_rank(seed: int, group: Group) -> None:
    """Gives all ranks but the main one random numbers of their own, after networks were built from the same ones."""
    if not group.is_main:
        seed_all(seed + _RANK_STRIDE * group.rank)
