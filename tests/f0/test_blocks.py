"""Waves are cut so that every frame is kept once and every piece starts where frames and samples meet."""

import numpy as np
import pytest
import torch

from modules.f0.blocks import BlockPlan, run_in_blocks
from modules.f0.network import make_resampler

RATES = (16000, 22050, 32000, 44100, 48000, 44101)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("multiple", [1, 32])
def test_every_frame_is_kept_once_and_pieces_stay_short(rate, multiple):
    plan = BlockPlan(rate, multiple=multiple, seconds=40, context_seconds=8)
    for n_samples in (1, 40 * rate, 40 * rate + 1, 61 * rate, 99 * rate + 77, 500 * rate - 1):
        frames = np.concatenate(
            [
                np.arange(samples.start * 100 // rate, samples.stop * 100 // rate + 1)[kept]
                for samples, kept in plan.pieces(n_samples)
            ]
        )
        np.testing.assert_array_equal(frames, np.arange(n_samples * 100 // rate + 1))
        for samples, _ in plan.pieces(n_samples):
            assert samples.start * 100 % rate == 0 and samples.start * 100 // rate % multiple == 0
            assert samples.stop - samples.start <= 48.1 * rate


def test_a_wave_up_to_the_limit_is_not_cut():
    plan = BlockPlan(44100, seconds=60)
    assert plan.pieces(60 * 44100) == [(slice(0, 60 * 44100), slice(None))]
    assert len(plan.pieces(60 * 44100 + 1)) == 2


@pytest.mark.parametrize("rate", RATES[:-1])  # the last would need a filter of gigabytes
def test_resampling_in_pieces_equals_resampling_at_once(rate):
    wav = np.random.default_rng(0).standard_normal(9 * rate + 5).astype(np.float32)
    resample = make_resampler(rate, 16000, torch.device("cpu"))
    plan = BlockPlan(rate, seconds=3, context_seconds=0.5)

    def first_sample_of_each_frame(piece):
        return resample(piece)[::160]

    whole = first_sample_of_each_frame(torch.from_numpy(wav)).numpy()
    found = run_in_blocks(wav, plan, first_sample_of_each_frame, torch.device("cpu"))
    assert found.shape == whole.shape
    np.testing.assert_allclose(found, whole, atol=1e-6)
