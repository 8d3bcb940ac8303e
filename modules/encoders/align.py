"""Content units from the encoder's frame rate (50 a second) to the model's (about 86)."""

import torch
import torch.nn.functional as F

from modules.errors import ConfigError

MODES = ("left", "nearest", "linear")


def align_units(units: torch.Tensor, n_frames: int, mode: str) -> torch.Tensor:
    """Units (D, N') stretched or squeezed to `n_frames` frames: (D, N), same dtype and device.

    `mode` is the model's `data.unit_interpolate_mode`: "left" holds a unit until the next one starts, "nearest" is
    torch's nearest neighbour (they differ by a frame here and there), "linear" blends neighbours.
    """
    if mode not in MODES:
        raise ConfigError(f"data.unit_interpolate_mode is {mode!r}. Known: {', '.join(MODES)}.")
    if n_frames == 0 or units.shape[-1] == 0:
        return units.new_zeros(units.shape[0], n_frames)
    if mode == "left":
        return units[:, _left_indices(units.shape[-1], n_frames, units.device)]
    return F.interpolate(units[None], size=n_frames, mode=mode)[0]


def _left_indices(n_units: int, n_frames: int, device: torch.device) -> torch.Tensor:
    """Which unit each frame takes: unit k starts at frame k * N / N', but each frame moves on by one unit at most.

    With ideal(i) = the last unit that has started by frame i, stepping on at most once a frame means
    index(i) = min over j <= i of ideal(j) + (i - j), and index(0) = 0. So it is a running minimum of ideal(i) - i.
    When stretching (N >= N') the limit never binds and index = ideal.
    """
    starts = torch.arange(n_units + 1, dtype=torch.float32) * n_frames / n_units
    frames = torch.arange(n_frames)
    ideal = torch.searchsorted(starts, frames.float(), right=True) - 1
    limited = torch.cummin(torch.cat([ideal.new_zeros(1), (ideal - frames)[1:]]), dim=0).values + frames
    return limited.clamp_(0, n_units - 1).to(device)
