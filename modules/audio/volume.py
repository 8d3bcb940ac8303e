"""Loudness of each frame, as models with volume embedding see it."""

import torch
import torch.nn.functional as F


def frame_volume(wav: torch.Tensor, hop_length: int) -> torch.Tensor:
    """Root mean square of the hop centred on each frame's first sample.

    With hop 4 and samples 1..11 the squares are reflected by 2 at both ends and cut in fours:
    (9 4 1 4)(9 16 25 36)... -> 2.1213, 4.6368.

    Args:
        wav: (T,) in [-1, 1].
        hop_length: samples from frame to frame.

    Returns:
        (T // hop_length,) float32, linear.
    """
    n_frames = wav.shape[-1] // hop_length
    if n_frames == 0:
        return wav.new_zeros(0, dtype=torch.float32)
    power = wav.float().square()
    padded = F.pad(power[None, None], (hop_length // 2, (hop_length + 1) // 2), mode="reflect")[0, 0]
    return padded[: n_frames * hop_length].reshape(n_frames, hop_length).mean(dim=-1).sqrt()
