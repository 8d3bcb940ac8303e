"""The tensors of a weights file by name, and whether they fit a network."""

from collections.abc import Callable, Mapping
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
    """`tensors_of` the content of the file `path`, which must hold some."""
    found = tensors_of(content)
    if not found:
        entries = ", ".join(sorted(map(str, content))[:6])[:200] or "none"
        text = f"{path}: holds no weights (its entries: {entries})"
        raise CheckpointError(f"{text}. Give a file that a training or a download has made.")
    return found


def fit(
    found: Mapping[str, torch.Tensor],
    wanted: Mapping[str, torch.Tensor],
    path: Path | str,
    hint: str | Callable[[str, tuple[int, ...]], str] = "Use the config.json that was saved with this checkpoint.",
    where: str = "the network",
    no_extra: tuple[str, ...] = (),
) -> dict[str, torch.Tensor]:
    """The tensors `found` in the file `path` that a network's `state_dict()` names, in its order; others are left out.

    Args:
        hint: what to do, or what gives it for the first mismatch: of the tensor's name and the axes whose sizes differ,
            none where it is missing or has no place.
        where: what the network comes from, for the message ("config.json").
        no_extra: starts of names that must not be left out; "" of all names.
    """
    wrong: dict[str, tuple[str, tuple[int, ...]]] = {}  # name -> what is wrong, the axes that differ
    for name, tensor in wanted.items():
        if name not in found:
            wrong[name] = "is missing", ()
        elif (shape := tuple(found[name].shape)) != (expected := tuple(tensor.shape)):
            axes = tuple(axis for axis, (a, b) in enumerate(zip(shape, expected)) if a != b)
            wrong[name] = f"is {list(shape)} but {list(expected)} is expected", axes or (0,)
    for name in found:
        if name not in wanted and name.startswith(no_extra):
            wrong[name] = "has no place in it", ()
    if wrong:
        first, (_, axes) = next(iter(wrong.items()))
        texts = [f"{name} {text}" for name, (text, _) in wrong.items()]
        more = f" and {len(texts) - 4} more" if len(texts) > 4 else ""
        remedy = hint if isinstance(hint, str) else hint(first, axes)
        raise CheckpointError(f"{path}: does not fit {where}: {'; '.join(texts[:4])}{more}. {remedy}")
    return _finite({name: found[name] for name in wanted}, path)


def fit_in_part(
    found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], path: Path | str
) -> tuple[dict[str, torch.Tensor], float]:
    """All that a network's `state_dict()` names, from the file `path` where name and shape are the same and as it is in
    `wanted` elsewhere; and the share of its numbers, 0 to 1, that the file gives."""
    taken = {name: found[name] for name, own in wanted.items() if name in found and found[name].shape == own.shape}
    share = sum(tensor.numel() for tensor in taken.values()) / sum(tensor.numel() for tensor in wanted.values())
    return {**wanted, **_finite(taken, path)}, share


def _finite(found: dict[str, torch.Tensor], path: Path | str) -> dict[str, torch.Tensor]:
    """The same tensors, of which none holds nan or infinity."""
    for name, tensor in found.items():
        if not tensor.is_floating_point():
            continue
        # A norm is fifty times as quick as `isfinite`; where it overflows, that one decides.
        norm = torch.linalg.vector_norm(tensor if tensor.dtype == torch.float64 else tensor.float())
        if not norm.isfinite() and not tensor.isfinite().all():
            problem = f"{path}: {name} holds numbers that are not finite"
            raise CheckpointError(f"{problem}: its training failed, or it is damaged. Use an earlier checkpoint.")
    return found
