"""Windowed-sinc resampling for conversion; features for training come from soxr (`modules/audio/io.py`)."""

import math

import numpy as np
import torch

from modules.audio import io
from modules.audio.torchaudio_compat import import_torchaudio

# Filter taps: 96 kHz to 44.1 kHz has 0.05 million; 44.056 to 44.1 kHz would have 120 million and take 4 GB to make.
LARGEST_KERNEL = 1 << 22


class SincResampler:
    """torchaudio's resampler, one cached filter bank for each pair of rates.

    Args:
        device: where the filters live and the audio is filtered.
        filter_width: zero crossings of the filter to each side; so-vits-svc takes 128 before its F0 networks.
    """

    def __init__(self, device: torch.device, filter_width: int = 6) -> None:
        self.device, self.filter_width = device, filter_width
        self._filters: dict[tuple[int, int], torch.nn.Module] = {}

    def __call__(self, wav: torch.Tensor, from_rate: int, to_rate: int) -> torch.Tensor:
        """`wav` (..., T) float32 at `from_rate` as (..., ceil(T * to_rate / from_rate)) at `to_rate`, on this device.

        Rates without a useful common divisor would need a filter bank of gigabytes; those few go through soxr.
        """
        if from_rate == to_rate:
            return wav.to(self.device)
        divisor = math.gcd(from_rate, to_rate)
        if (from_rate // divisor) * (to_rate // divisor) > LARGEST_KERNEL:
            return torch.from_numpy(self._with_soxr(wav.cpu().numpy(), from_rate, to_rate)).to(self.device)
        key = (from_rate, to_rate)
        if key not in self._filters:
            make = import_torchaudio().transforms.Resample
            self._filters[key] = make(*key, lowpass_filter_width=self.filter_width).to(self.device)
        return self._filters[key](wav.to(self.device))

    @staticmethod
    def _with_soxr(wav: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
        wanted = -(-len(wav) * to_rate // from_rate)
        out = io.resample(wav, from_rate, to_rate)[:wanted]
        return np.pad(out, (0, wanted - len(out))).astype(np.float32)
