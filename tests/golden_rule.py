"""How the goldens under `tests/goldens/rule/` are compared: weights filled by a rule, random numbers counted.

A golden of that folder stores neither weights nor noise. `fill` gives every parameter the value that its name implies,
and `counted_draws` replaces torch's generators, so that a network built here must repeat upstream's numbers.
"""

import contextlib
import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

GOLDENS = Path(__file__).resolve().parent / "goldens"

# Every golden made with this spectrum shares it, so it is rebuilt instead of stored: (2, 1025, 24).
FORWARD_SPEC_SEED = 14


def load_golden(name: str) -> dict[str, np.ndarray]:
    """The arrays of `tests/goldens/NAME.npz`."""
    with np.load(GOLDENS / f"{name}.npz") as archive:
        return {key: archive[key] for key in archive.files}


def tensor(array: np.ndarray) -> torch.Tensor:
    """A torch copy of a golden array, dtype kept."""
    return torch.from_numpy(np.array(array))


def forward_spec() -> torch.Tensor:
    """The linear spectrum (2, 1025, 24) that the training-style goldens were made with."""
    return tensor(np.abs(np.random.RandomState(FORWARD_SPEC_SEED).standard_normal((2, 1025, 24))).astype(np.float32))


def rule_value(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 value that the parameter called `key` has under the rule of the goldens."""
    seed = zlib.crc32(key.encode()) & 0xFFFFFFFF
    normal = np.random.RandomState(seed).standard_normal(math.prod(shape)).astype(np.float32).reshape(shape)
    last = key.rsplit(".", 1)[-1]
    if last in ("weight_g", "gamma") or (last == "weight" and len(shape) == 1):
        return 1 + 0.1 * normal
    if len(shape) <= 1:
        return 0.1 * normal
    return normal / np.float32(math.sqrt(math.prod(shape[1:])))


def fill(module: torch.nn.Module, scaled: dict[str, float] | None = None) -> None:
    """Gives every parameter its value under the rule; a shared one has the first name that `named_parameters` yields.

    Args:
        module: the network, changed in place; buffers keep what the constructor gave them.
        scaled: prefix of a name -> factor on the value, for goldens made with an exception to the rule.
    """
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            value = rule_value(key, tuple(parameter.shape))
            for prefix, factor in (scaled or {}).items():
                if key.startswith(prefix):
                    value = value * np.float32(factor)
            parameter.copy_(torch.from_numpy(value))


@contextlib.contextmanager
def counted_draws(zero: bool = False) -> Iterator[list[str]]:
    """Replaces torch.randn, randn_like, rand, randint and Tensor.uniform_ by numbers that depend on the call's count.

    Args:
        zero: randn and rand give zeros.

    Yields:
        A log of the calls, like "randn#0 1x192x24", in the same form as the goldens' `noise_log`.
    """
    log: list[str] = []
    counts = dict.fromkeys(("randn", "rand", "uniform", "randint"), 0)

    def source(kind: str, base: int, shape: tuple[int, ...]) -> np.random.RandomState:
        k = counts[kind]
        counts[kind] += 1
        log.append(f"{kind}#{k} {'x'.join(map(str, shape))}")
        return np.random.RandomState(base + k)

    def shape_of(size: tuple) -> tuple[int, ...]:
        return tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else tuple(size)

    def finish(array: np.ndarray, like: dict) -> torch.Tensor:
        made = torch.from_numpy(np.asarray(array, np.float32) * np.float32(not zero))
        return made.to(like.get("device"), like.get("dtype") or torch.float32)

    def randn(*size, **like):
        shape = shape_of(size)
        return finish(source("randn", 1000, shape).standard_normal(shape), like)

    def randn_like(other, **like):
        return randn(other.shape, **{"device": other.device, "dtype": other.dtype, **like})

    def rand(*size, **like):
        shape = shape_of(size)
        return finish(source("rand", 2000, shape).random_sample(shape), like)

    def uniform_(self, low=0.0, high=1.0, generator=None):
        shape = tuple(self.shape)
        drawn = low + (high - low) * source("uniform", 3000, shape).random_sample(shape)
        with torch.no_grad():
            return self.copy_(torch.from_numpy(drawn.astype(np.float32)))

    def randint(low, high, size, **like):
        drawn = source("randint", 4000, tuple(size)).randint(low, high, tuple(size))
        return torch.from_numpy(drawn).to(like.get("device"), like.get("dtype") or torch.int64)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", randn)
        patch.setattr(torch, "randn_like", randn_like)
        patch.setattr(torch, "rand", rand)
        patch.setattr(torch, "randint", randint)
        patch.setattr(torch.Tensor, "uniform_", uniform_)
        yield log


def relative_difference(found: torch.Tensor | np.ndarray, wanted: np.ndarray) -> float:
    """max|found - wanted| over max|wanted| (or over 1 where that is smaller)."""
    if isinstance(found, torch.Tensor):
        found = found.detach().cpu().numpy()
    return float(np.abs(found - wanted).max() / max(1.0, np.abs(wanted).max()))
