"""The tensors of a weights file by name, and whether they fit a network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from modules.errors import CheckpointError

# Entries under which published files keep their tensors.
ENTRIES = ("model", "weight", "state_dict", "model_state_dict", "model_state", "generator", "hubert", "net")


def tensors_of(content: Mapping[Any, Any]) -> dict[str, torch.Tensor]:
    """The tensors in the content of a weights file, its own or those of one of `ENTRIES`, without the `module.` that
    parallel training puts before every name; empty where there are none."""
    for candidate in (content, *(content.get(entry) for entry in ENTRIES)):
        items = candidate.items() if isinstance(candidate, Mapping) else ()
        found = {name: value for name, value in items if isinstance(name, str) and isinstance(value, torch.Tensor)}
        if found:
            prefix = "module." if all(name.startswith("module.") for name in found) else ""
            return {name.removeprefix(prefix): value for name, value in found.items()}
    return {}


def state_dict(content: Mapping[Any, Any], path: Path | str) -> dict[str, torch.Tensor]:
    """`tensors_of` the content of the file `path`, which must hold some.

    Raises:
        CheckpointError: it holds none.
    """
    found = tensors_of(content)
    if not found:
        raise CheckpointError(f"{path}: holds no weights. Give a file that a training or a download has made.")
    return found


def fit(
    found: Mapping[str, torch.Tensor],
    wanted: Mapping[str, torch.Tensor],
    path: Path | str,
    hint: str = "Use the config.json that was saved with this checkpoint.",
) -> dict[str, torch.Tensor]:
    """The tensors of a file that a network's `state_dict()` names, in its order; others are left out.

    Raises:
        CheckpointError: one is absent or of another shape; up to four are named with both shapes, then comes the hint.
    """
    wrong = []
    for name, tensor in wanted.items():
        if name not in found:
            wrong.append(f"{name} is missing")
        elif tuple(found[name].shape) != tuple(tensor.shape):
            wrong.append(f"{name} is {list(found[name].shape)} but {list(tensor.shape)} is expected")
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise CheckpointError(f"{path}: does not fit the network: {'; '.join(wrong[:4])}{more}. {hint}")
    return {name: found[name] for name in wanted}
