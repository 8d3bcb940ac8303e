"""Weights in a fifth of their size: matrices as 8-bit integers with a scale for each of their rows.

A matrix NAME is stored as NAME.int8 and NAME.scale: weight = int8 * scale, row by row along the first axis, so no
number is off by more than half a 127th of the largest in its row. The integers are deflated (RFC 1951, bytes in a uint8
tensor) and have NAME.shape beside them; files from before that hold them plainly. Vectors are stored in 16 bits.
"""

import math
import zlib
from collections.abc import Callable, Mapping

import numpy as np
import torch

INT8, SCALE, SHAPE = ".int8", ".scale", ".shape"
_LARGEST = 127
_SMALL = 1024  # tensors with fewer numbers stay in 16 bits
_MOST_AXES = 8
_MOST_NUMBERS = 1 << 29  # in all matrices of a file, each byte of which may promise a thousand


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
    return {**deflate(whole.clamp(-_LARGEST, _LARGEST).to(torch.int8).view(tensor.shape)), SCALE: scale}


def deflate(whole: torch.Tensor) -> dict[str, torch.Tensor]:
    """An int8 tensor as its deflated bytes and its shape, by the endings of its name."""
    compressor = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    parts = compressor.compress(whole.contiguous().numpy().tobytes()) + compressor.flush()
    return {INT8: torch.from_numpy(np.frombuffer(bytearray(parts), np.uint8)), SHAPE: torch.tensor(whole.shape)}


def is_packed(tensors: Mapping) -> bool:
    """Whether some of the entries are packed ones."""
    return any(isinstance(name, str) and name.endswith(INT8) for name in tensors)


def unpack(tensors: Mapping) -> dict:
    """The entries with what was packed in float32 under its own name; all else is as it was, also what is shared.
    A ValueError says which packed tensor has no scale, or not one for each row, or cannot be inflated."""
    found, seen, room = dict(tensors), {}, _MOST_NUMBERS
    for name in [name for name in tensors if isinstance(name, str) and name.endswith(INT8)]:
        plain = name.removesuffix(INT8)
        whole, scale, shape = (found.pop(plain + suffix, None) for suffix in (INT8, SCALE, SHAPE))
        if not isinstance(whole, torch.Tensor) or not isinstance(scale, torch.Tensor):
            raise ValueError(f"{plain} is packed, but {plain + SCALE} is not there or does not fit")
        place = (whole.data_ptr(), whole.shape, scale.data_ptr())
        if place not in seen or not whole.numel():
            if shape is not None:
                whole = _inflated(plain, whole, shape, room)
                room -= whole.numel()
            if whole.dim() == 0 or scale.shape != whole.shape[:1]:
                raise ValueError(f"{plain} is packed, but {plain + SCALE} is not there or does not fit")
            seen[place] = whole.float() * scale.float().view(-1, *[1] * (whole.dim() - 1))
        found[plain] = seen[place]
    return found


def _inflated(name: str, deflated: torch.Tensor, shape: torch.Tensor, room: int) -> torch.Tensor:
    """What `deflate` was given. A ValueError says what is wrong with it, before it takes more than `room` bytes."""
    is_shape = isinstance(shape, torch.Tensor) and shape.dtype == torch.int64 and 1 <= shape.numel() <= _MOST_AXES
    sizes = shape.flatten().tolist() if is_shape else [0]
    count = math.prod(sizes)
    if min(sizes) < 1 or count > room:
        raise ValueError(f"{name} is packed, but {name + SHAPE} is no shape of a matrix that a model could have")
    if deflated.dtype != torch.uint8:
        raise ValueError(f"{name} is packed, and its bytes are {str(deflated.dtype).removeprefix('torch.')}")
    inflator = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = inflator.decompress(deflated.numpy().tobytes(), count + 1)  # a length of 0 would mean no limit
    except zlib.error as error:
        raise ValueError(f"{name} is packed, and cannot be unpacked ({error})") from None
    if len(content) != count or not inflator.eof:
        raise ValueError(f"{name} is packed, and its bytes are not those of {sizes}")
    return torch.from_numpy(np.frombuffer(content, np.int8).copy()).view(sizes)
