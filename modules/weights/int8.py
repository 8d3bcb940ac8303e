"""Weights in a quarter of their size: matrices as 8-bit integers with a scale for each of their rows.

A matrix NAME is stored as NAME.int8 and NAME.scale: weight = int8 * scale, row by row along the first axis, so no
number is off by more than half a 127th of the largest in its row. Vectors are stored in 16 bits.
"""

from collections.abc import Callable, Mapping

import torch

INT8, SCALE = ".int8", ".scale"
_LARGEST = 127
_SMALL = 1024  # tensors with fewer numbers stay in 16 bits


def halve(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors with floats as float16; names that share a tensor, as those of a shared flow do, still share it.
    A ValueError names the tensor with a number that is too large."""
    return _convert(tensors, lambda name, tensor: {"": _half(name, tensor)})


def pack(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors, packed: large ones of two axes and more as int8 with float32 scales, the others as `halve`.
    A ValueError names the tensor with a number that is too large or not finite."""
    return _convert(tensors, _packed)


def _convert(tensors: Mapping[str, torch.Tensor], convert: Callable[[str, torch.Tensor], dict]) -> dict:
    """What `convert` makes of each tensor, by the endings of its name, once for all names of the same one."""
    converted, seen = {}, {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if place not in seen or not tensor.numel():
            seen[place] = convert(name, tensor)
        converted.update({name + suffix: part for suffix, part in seen[place].items()})
    return converted


def _half(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    halved = tensor.half()
    if not torch.isfinite(halved).all() and torch.isfinite(tensor).all():
        raise ValueError(f"{name} has numbers up to {float(tensor.abs().max()):.3g}, and 16 bits end at 65504")
    return halved


def _packed(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    if not tensor.is_floating_point() or tensor.dim() < 2 or tensor.numel() < _SMALL:
        return {"": _half(name, tensor)}
    rows = tensor.float().flatten(1)
    scale = rows.abs().amax(1) / _LARGEST
    if not scale.isfinite().all():
        raise ValueError(f"{name} has numbers that are not finite")
    whole = (rows / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).round()
    return {INT8: whole.clamp(-_LARGEST, _LARGEST).to(torch.int8).view(tensor.shape), SCALE: scale}


def is_packed(tensors: Mapping) -> bool:
    """Whether some of the entries are packed ones."""
    return any(isinstance(name, str) and name.endswith(INT8) for name in tensors)


def unpack(tensors: Mapping) -> dict:
    """The entries with what was packed in float32 under its own name; all else is as it was, also what is shared.
    A ValueError says which packed tensor has no scale, or not one for each row."""
    found, seen = dict(tensors), {}
    for name in [name for name in tensors if isinstance(name, str) and name.endswith(INT8)]:
        plain = name.removesuffix(INT8)
        whole, scale = found.pop(name), found.pop(plain + SCALE, None)
        fits = isinstance(whole, torch.Tensor) and isinstance(scale, torch.Tensor) and whole.dim() > 0
        if not fits or scale.shape != whole.shape[:1]:
            raise ValueError(f"{plain} is packed, but {plain + SCALE} is not there or does not fit")
        place = (whole.data_ptr(), whole.shape, scale.data_ptr())
        if place not in seen or not whole.numel():
            seen[place] = whole.float() * scale.float().view(-1, *[1] * (whole.dim() - 1))
        found[plain] = seen[place]
    return found
