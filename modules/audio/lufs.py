"""Loudness as broadcasters measure it, in LUFS: what sounds are made equal in before they are compared by ear."""

import math

import numpy as np

from modules.audio.io import resample

SILENT = -math.inf  # loudness of what is nowhere above the absolute gate
_RATE = 48000  # Hz, for which the standard gives its filters
_SHELF = [1.53512485958697, -2.69169618940638, 1.19839281085285, 1.0, -1.69065929318241, 0.73248077421585]
_HIGH_PASS = [1.0, -2.0, 1.0, 1.0, -1.99004745483398, 0.99007225036621]
_BLOCK, _STEP = round(0.4 * _RATE), round(0.1 * _RATE)  # samples: blocks of 400 ms overlap by three quarters
_ABSOLUTE_GATE, _RELATIVE_GATE = -70.0, -10.0  # LUFS; LU below the mean of what passes the first


def integrated_loudness(wav: np.ndarray, rate: int) -> float:
    """Gated loudness of one channel (T,) in [-1, 1] at `rate` Hz, in LUFS; `SILENT` where nothing is above -70.

    A sine of 997 Hz and full scale has -3.01. What is shorter than a block of 400 ms is one block.

    Source: Recommendation ITU-R BS.1770-4, "Algorithms to measure audio programme loudness and true-peak audio level",
    2015, annex 1: filters of tables 1 and 2, equations 2 to 7, with one channel of weight 1.
    """
    if not len(wav):
        return SILENT
    from scipy.signal import sosfilt

    weighted = sosfilt([_SHELF, _HIGH_PASS], resample(np.asarray(wav, np.float32), rate, _RATE).astype(np.float64))
    total = np.concatenate([[0.0], np.cumsum(np.square(weighted))])
    length = min(_BLOCK, len(weighted))
    starts = np.arange(0, len(weighted) - length + 1, _STEP)
    powers = (total[starts + length] - total[starts]) / length
    heard = powers[_levels(powers) > _ABSOLUTE_GATE]
    if not len(heard):
        return SILENT
    gate = _levels(heard.mean()) + _RELATIVE_GATE
    return float(_levels(heard[_levels(heard) > gate].mean()))


def _levels(powers: np.ndarray) -> np.ndarray:
    """LUFS of mean squares."""
    return -0.691 + 10 * np.log10(np.maximum(powers, 1e-20))
