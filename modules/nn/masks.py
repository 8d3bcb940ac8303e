"""Which frames of a padded batch are real, and random windows of them. `lengths` are (B,) integer, frames per item."""

import torch


def sequence_mask(lengths: torch.Tensor, n_frames: int) -> torch.Tensor:
    """(B, 1, N) bool: True where a frame is real, False where it is padding."""
    frames = torch.arange(n_frames, device=lengths.device)
    return (frames[None] < lengths[:, None]).unsqueeze(1)


def random_starts(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """(B,) int64: a first frame per item, uniform over all places where a window of `size` frames lies inside the item,
    0 where it is shorter. Draws torch.rand (B,)."""
    places = (lengths - size + 1).clamp_min(1)
    drawn = torch.rand(lengths.shape[0], device=lengths.device)
    return (drawn * places).long()


def slice_frames(x: torch.Tensor, starts: torch.Tensor, size: int) -> torch.Tensor:
    """Windows of `size` frames (or samples) along the last axis of (B, N) or (B, C, N), from `starts` (B,) int64."""
    frames = starts[:, None] + torch.arange(size, device=x.device)
    if x.dim() == 3:
        frames = frames.unsqueeze(1).expand(-1, x.shape[1], -1)
    return x.gather(-1, frames)
