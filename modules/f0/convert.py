"""Pitch from one scale to another: Hz, coarse steps for an embedding, the scaled mel axis of the pitch decoder."""

import math

import torch

# The range that the coarse scale spans, in Hz; also the range of every F0 predictor here.
F0_MIN = 50.0
F0_MAX = 1100.0
COARSE_STEPS = 256

# Brings the mel axis of `f0_to_lf0` near 1 for singing voices.
_LF0_SCALE = 500.0


def hz_to_mel(f0: torch.Tensor) -> torch.Tensor:
    """Mel in the natural-logarithm form, 1127 ln(1 + f / 700), of a pitch in Hz."""
    return 1127 * torch.log1p(f0 / 700)


def f0_to_coarse(f0: torch.Tensor, clamp_high: bool = False) -> torch.Tensor:
    """Pitch in Hz as rows (int64) of an embedding: 1 at 50 Hz and below, 255 at 1100 Hz, equal mel steps between.

    Args:
        f0: any shape.
        clamp_high: what lies above the last step gets row 255. By default it gets row 0, as published 4.1 models were
            trained: from about 1103 Hz on. A model decides with `model.clamp_f0_high` of its config: absent in
            published ones, which means no; yes in those that `preprocess_flist_config.py` writes.
    """
    low, high = (1127 * math.log1p(edge / 700) for edge in (F0_MIN, F0_MAX))
    mel = hz_to_mel(f0.float())
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
    """A pitch curve less its mean over voiced frames (0 without one): (B, 1, N), zero where the mask is.

    Args:
        lf0: (B, 1, N) on the pitch decoder's axis.
        mask: (B, 1, N), zero at padded frames.
        uv: (B, N), 1 = voiced.
        factor: (B, 1) stretch of the range, or None for 1.
    """
    voiced = uv.sum(dim=1, keepdim=True)
    mean = (lf0[:, 0] * uv).sum(dim=1, keepdim=True) / torch.where(voiced == 0, 9999.0, voiced)
    centred = lf0 - mean.unsqueeze(2)
    if factor is not None:
        centred = centred * factor.unsqueeze(2)
    return centred * mask
