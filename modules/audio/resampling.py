"""Windowed-sinc resampling for conversion; features for training come from soxr (`modules/audio/io.py`)."""

import math

import numpy as np
import torch

from modules.audio import io
from modules.audio.torchaudio_compat import import_torchaudio

# Filter taps, above which soxr resamples: 96 to 44.1 kHz has 0.05 million; 44.056 to 44.1 kHz 120 million, or 4 GB.
LARGEST_KERNEL = 1 << 22
MOST_FILTERS = 8  # pairs of rates that are kept, of up to 16 MB each: songs of clients may have any rate


class SincResampler:
    """torchaudio's resampler, one cached filter bank for each of the newest pairs of rates."""

    def __init__(self, device: torch.device, filter_width: int = 6) -> None:
        self.device = device
        self.filter_width = filter_width  # zero crossings to each side; so-vits-svc takes 128 before its F0 networks
        self._filters: dict[tuple[int, int], torch.nn.Module] = {}

    def __call__(self, wav: torch.Tensor, from_rate: int, to_rate: int) -> torch.Tensor:
        """`wav` (..., T) float32 at `from_rate` as (..., ceil(T * to_rate / from_rate)) at `to_rate`, on the device."""
        if from_rate == to_rate:
            return wav.to(self.device)
        divisor = math.gcd(from_rate, to_rate)
        if (from_rate // divisor) * (to_rate // divisor) > LARGEST_KERNEL:
            wanted = -(-len(wav) * to_rate // from_rate)
            out = io.resample(wav.cpu().numpy(), from_rate, to_rate)[:wanted]
            return torch.from_numpy(np.pad(out, (0, wanted - len(out)))).to(self.device)
        key = (from_rate, to_rate)
        if key not in self._filters:
            if len(self._filters) >= MOST_FILTERS:
                del self._filters[next(iter(self._filters))]  # the oldest
            make = import_torchaudio().transforms.Resample
            self._filters[key] = make(*key, lowpass_filter_width=self.filter_width).to(self.device)
        return self._filters[key](wav.to(self.device))
