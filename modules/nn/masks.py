"""Which frames of a padded batch are real, and random windows of them."""

import torch


def sequence_mask(lengths: torch.Tensor, n_frames: int) -> torch.Tensor:
    """1 where a frame is real, 0 where it is padding.

    Args:
        lengths: (B,) integer, frames of each item.
        n_frames: N, width of the padded batch.

    Returns:
        (B, 1, N) bool.
    """
    frames = torch.arange(n_frames, device=lengths.device)
    return (frames[None] < lengths[:, None]).unsqueeze(1)


def random_starts(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """A first frame per item, uniform over all places where a window of `size` frames lies inside the item.

    An item shorter than the window starts at 0. One number per item is drawn from the global generator of the device.

    Args:
        lengths: (B,) integer, frames of each item.
        size: frames of the window.

    Returns:
        (B,) int64.
    """
    places = (lengths - size + 1).clamp_min(1)
    drawn = torch.rand(lengths.shape[0], device=lengths.device)
    return (drawn * places).long()


def slice_frames(x: torch.Tensor, starts: torch.Tensor, size: int) -> torch.Tensor:
    """Windows of `size` frames (or samples) along the last axis, one start per item.

    Args:
        x: (B, N) or (B, C, N).
        starts: (B,) int64, with starts + size <= N.
        size: frames to keep.

    Returns:
        (B, size) or (B, C, size).
    """
    frames = starts[:, None] + torch.arange(size, device=x.device)
    if x.dim() == 3:
        frames = frames.unsqueeze(1).expand(-1, x.shape[1], -1)
    return x.gather(-1, frames)
