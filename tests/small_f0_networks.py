"""Small pitch networks with random weights, as files where the predictors look for theirs.

The goldens under `tests/goldens/tiny/` were made with weights drawn from one seed, which is repeated here instead of
storing megabytes of them.
"""

import math
from pathlib import Path

import golden_rule
import torch

SEED = 4


def seeded_state(names: list[str], shapes: list[tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """The weights that the tiny goldens were made with: parameters first, then buffers, in the order of the names."""
    generator = torch.Generator().manual_seed(SEED)
    state = {}
    for is_buffer in (False, True):
        for name, shape in zip(names, shapes):
            last = name.rsplit(".", 1)[-1]
            if (last in ("running_mean", "running_var", "num_batches_tracked")) != is_buffer:
                continue
            if last == "num_batches_tracked":
                state[name] = torch.zeros((), dtype=torch.int64)
            elif last == "running_var":
                state[name] = 1 + 0.2 * torch.rand(shape, generator=generator)
            elif last == "running_mean":
                state[name] = 0.1 * torch.randn(shape, generator=generator)
            else:
                scale = 0.7 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.05
                state[name] = scale * torch.randn(shape, generator=generator)
    return state


def rmvpe_state() -> dict[str, torch.Tensor]:
    """Weights of a two-level RMVPE, those of the unused timbre filter included."""
    golden = golden_rule.load_golden("tiny/rmvpe_small")
    shapes = [tuple(map(int, text.split("x"))) if text else () for text in golden["shapes"].tolist()]
    return seeded_state(golden["keys"].tolist(), shapes)


def write_rmvpe(folder: Path) -> Path:
    """Puts `pretrain/rmvpe.pt` into a workspace."""
    path = folder / "pretrain/rmvpe.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": rmvpe_state()}, path)
    return path
