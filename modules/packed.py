"""Weights in a quarter of their size: matrices as 8-bit integers with a scale for each of their rows.

A matrix NAME is stored as NAME.int8 and NAME.scale: weight = int8 * scale, row by row along the first axis, so no
number is off by more than half a 127th of the largest in its row. Vectors are stored in 16 bits.
"""

from collections.abc import Mapping

import torch

INT8, SCALE = ".int8", ".scale"
_LARGEST = 127
_SMALL = 1024  # tensors with fewer numbers stay in 16 bits


def pack(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors, packed: large ones of two axes and more as int8 with float32 scales, other floats as float16.

    Names that share a tensor, as the layers of a shared flow do, share the packed one.

    Args:
        tensors: name -> tensor of finite numbers, the small ones within float16's range.
    """
    packed, seen = {}, {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if place not in seen or not tensor.numel():
            seen[place] = _packed(tensor)
        packed.update({name + suffix: part for suffix, part in seen[place].items()})
    return packed


def _packed(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """What is stored of a tensor, by the endings of its name."""
    if not tensor.is_floating_point():
        return {"": tensor.clone()}
    if tensor.dim() < 2 or tensor.numel() < _SMALL:
        return {"": tensor.half()}
    rows = tensor.float().flatten(1)
    scale = rows.abs().amax(1) / _LARGEST
    whole = (rows / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).round()
    return {INT8: whole.clamp(-_LARGEST, _LARGEST).to(torch.int8).view(tensor.shape), SCALE: scale}


def is_packed(tensors: Mapping) -> bool:
    """Whether some of the entries are packed ones."""
    return any(isinstance(name, str) and name.endswith(INT8) for name in tensors)


def unpack(tensors: Mapping) -> dict:
    """The entries with what was packed in float32 under its own name; all else is as it was, also what is shared.

    Raises:
        ValueError: a packed tensor has no scale, or not one for each row.
    """
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
