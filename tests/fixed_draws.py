"""Random draws that are the same for every item of every batch, so that a batch and its halves see the same."""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class FixedDraws(TorchFunctionMode):
    """Inside, normal numbers are 0, and uniform ones are 0, or 1 where they are drawn into a tensor that is there."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Replaces draws, and nothing else."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in ("rand", "randn"):
            return torch.zeros(*args, **kwargs)
        if name in ("rand_like", "randn_like"):
            return torch.zeros_like(*args, **kwargs)
        if name == "uniform_":
            return args[0].fill_(1.0)
        return func(*args, **kwargs)
