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
        # Of other kinds, an attack may have made names that take minutes to write, or crash.
        is_short = [isinstance(key, str) or (isinstance(key, int) and abs(key) < 2**63) for key in content]
        names = sorted(str(key) if short else type(key).__name__ for key, short in zip(content, is_short))
        entries = ", ".join(names[:6])[:200] or "none"
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
    wrong = mismatches(found, wanted, no_extra)
    if wrong:
        first, axes = next(iter(wrong.items()))
        texts = [f"{name} {_problem(found.get(name), wanted.get(name))}" for name in wrong]
        more = f" and {len(texts) - 4} more" if len(texts) > 4 else ""
        remedy = hint if isinstance(hint, str) else hint(first, axes)
        raise CheckpointError(f"{path}: does not fit {where}: {'; '.join(texts[:4])}{more}. {remedy}")
    return _finite({name: found[name] for name in wanted}, path)


def _problem(found: torch.Tensor | None, wanted: torch.Tensor | None) -> str:
    if found is None:
        return "is missing"
    return "has no place in it" if wanted is None else f"is {list(found.shape)} but {list(wanted.shape)} is expected"


def fit_in_part(
    found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], path: Path | str
) -> dict[str, torch.Tensor]:
    """Those of the tensors `found` in the file `path` that a network's `state_dict()` has in the same shape."""
    return _finite({name: found[name] for name, own in wanted.items() if _axes(found, name, own) == ()}, path)


def mismatches(
    found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], no_extra: tuple[str, ...] = ("",)
) -> dict[str, tuple[int, ...]]:
    """Names that only one side has, of those in `found` the ones that start with one of `no_extra`, and those of
    another size with the axes along which they differ."""
    wrong = {name: axes or () for name, own in wanted.items() if (axes := _axes(found, name, own)) != ()}
    return wrong | {name: () for name in found if name not in wanted and name.startswith(no_extra)}


def _axes(found: Mapping[str, torch.Tensor], name: str, own: torch.Tensor) -> tuple[int, ...] | None:
    """The axes whose sizes differ, the first where their numbers do; None where there is no such tensor."""
    if name not in found:
        return None
    shape, expected = found[name].shape, own.shape
    return tuple(axis for axis, (a, b) in enumerate(zip(shape, expected)) if a != b) or (0,) * (shape != expected)


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
