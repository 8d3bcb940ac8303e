"""Long waves go through an F0 network in windows that start where frames and samples meet, and lose nothing."""

import numpy as np
import pytest
import torch

from modules.config.audio import AudioSpec
from modules.f0.network import NetworkPredictor

RATES = (16000, 22050, 32000, 44100, 48000)


class FirstSamples(NetworkPredictor):
    """In place of a pitch: the first resampled sample of each frame."""

    def track_window(self, wav: torch.Tensor) -> torch.Tensor:
        return self.resample(wav)[::160]


def build(rate: int, seconds: float, context_seconds: float, pooled: int = 1) -> FirstSamples:
    predictor = FirstSamples(AudioSpec(rate, 2048, 512, 2048, 80, 0.0, 8000.0), device="cpu")
    predictor.window_seconds, predictor.context_seconds, predictor.pooled_frames = seconds, context_seconds, pooled
    return predictor


@pytest.mark.parametrize("rate", [*RATES, 44101])
@pytest.mark.parametrize("pooled", [1, 32])
def test_every_frame_is_kept_once_and_windows_stay_short(rate, pooled):
    predictor = build(rate, 40, 8, pooled)
    for n_samples in (1, 40 * rate, 40 * rate + 1, 61 * rate, 99 * rate + 77, 500 * rate - 1):
        windows = predictor.windows(n_samples)
        frames = [np.arange(read.start * 100 // rate, read.stop * 100 // rate + 1)[keep] for read, keep in windows]
        np.testing.assert_array_equal(np.concatenate(frames), np.arange(n_samples * 100 // rate + 1))
        for read, _ in windows:
            assert read.start * 100 % rate == 0 and read.start * 100 // rate % pooled == 0
            assert read.stop - read.start <= 48.1 * rate


def test_a_wave_up_to_the_limit_is_not_cut():
    predictor = build(44100, 60, 2)
    assert predictor.windows(60 * 44100) == [(slice(0, 60 * 44100), slice(0, None))]
    assert len(predictor.windows(60 * 44100 + 1)) == 2


@pytest.mark.parametrize("rate", RATES)
def test_resampling_in_windows_equals_resampling_at_once(rate):
    wav = np.random.default_rng(0).standard_normal(9 * rate + 5).astype(np.float32)
    whole = build(rate, 60, 2).track_native(wav)
    found = build(rate, 3, 0.5).track_native(wav)
    assert found.shape == whole.shape
    np.testing.assert_allclose(found, whole, atol=1e-6)
