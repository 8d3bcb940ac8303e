"""Pitch from one scale to another: Hz, coarse steps for an embedding, the scaled mel axis of the pitch decoder."""

import math

import torch

from modules.f0.limits import F0_MAX, F0_MIN

COARSE_STEPS = 256

_LF0_SCALE = 500.0  # brings the mel axis of `f0_to_lf0` near 1 for singing voices


def f0_to_coarse(f0: torch.Tensor, clamp_high: bool = False) -> torch.Tensor:
    """Pitch in Hz, of any shape, as rows (int64) of an embedding: 1 at 50 Hz and below, 255 at 1100 Hz, equal mel steps
    1127 ln(1 + f / 700) between.

    With `clamp_high` (`model.clamp_f0_high` of a config; yes in those that `preprocess_flist_config.py` writes) what
    lies above gets row 255, else row 0 from about 1103 Hz on, as published 4.1 models were trained.
    """
    low, high = (1127 * math.log1p(edge / 700) for edge in (F0_MIN, F0_MAX))
    mel = 1127 * torch.log1p(f0.float() / 700)
    steps = (mel - low) * ((COARSE_STEPS - 2) / (high - low)) + 1
    coarse = torch.round(torch.where(mel > 0, steps, mel)).long().clamp_min(1)
    if clamp_high:
        return coarse.clamp_max(COARSE_STEPS - 1)
    return torch.where(coarse < COARSE_STEPS, coarse, 0)


def f0_to_lf0(f0: torch.Tensor) -> torch.Tensor:
    """The pitch decoder's axis, 2595 log10(1 + f / 700) / 500, of a pitch in Hz; 0 Hz is 0."""
    return 2595.0 * torch.log10(1.0 + f0 / 700.0) / _LF0_SCALE


def lf0_to_f0(lf0: torch.Tensor) -> torch.Tensor:
    """Hz of a value on the pitch decoder's axis; the inverse of `f0_to_lf0`."""
    return 700.0 * (torch.pow(10.0, lf0 * _LF0_SCALE / 2595.0) - 1.0)


def normalize_lf0(
    lf0: torch.Tensor, mask: torch.Tensor, uv: torch.Tensor, factor: torch.Tensor | None = None
) -> torch.Tensor:
    """A pitch curve (B, 1, N) on the pitch decoder's axis less its mean over voiced frames (0 without one), times
    `factor` (B, 1), zero where `mask` (B, 1, N) is; `uv` (B, N), 1 = voiced."""
    voiced = uv.sum(dim=1, keepdim=True)
    mean = (lf0[:, 0] * uv).sum(dim=1, keepdim=True) / torch.where(voiced == 0, 9999.0, voiced)
    centred = lf0 - mean.unsqueeze(2)
    return (centred if factor is None else centred * factor.unsqueeze(2)) * mask
