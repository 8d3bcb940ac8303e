"""Tests of diffusion/schedule.py: recorded numbers of upstream, and two routes to the posterior."""

import numpy as np
import pytest
import torch
from golden_rule import load_golden

from diffusion.schedule import NoiseSchedule

NAMES = (
    "betas alphas_cumprod alphas_cumprod_prev sqrt_alphas_cumprod sqrt_one_minus_alphas_cumprod "
    "log_one_minus_alphas_cumprod sqrt_recip_alphas_cumprod sqrt_recipm1_alphas_cumprod posterior_variance "
    "posterior_log_variance_clipped posterior_mean_coef1 posterior_mean_coef2"
).split()


@pytest.mark.parametrize("name", ["betas", "alphas_cumprod", "posterior_variance"])
def test_a_buffer_is_the_one_upstream_stores(name):
    # Both are float64 rounded to float32 at the end, so they agree to the last bit but one.
    np.testing.assert_allclose(
        NoiseSchedule(1000).buffers()[name].numpy(), load_golden("rule/unit2mel_small")[name], 1e-7
    )


def test_there_are_the_twelve_buffers_of_a_published_checkpoint():
    buffers = NoiseSchedule(50).buffers()
    assert sorted(buffers) == sorted(NAMES)
    assert all(values.shape == (50,) and values.dtype == torch.float32 for values in buffers.values())
    assert all(torch.isfinite(values).all() for values in buffers.values())


@pytest.mark.parametrize("timesteps", [1, 2, 100, 1000])
def test_the_noise_grows_from_level_to_level(timesteps):
    schedule = NoiseSchedule(timesteps)
    assert schedule.betas.dtype == schedule.alphas_cumprod.dtype == np.float64
    assert len(schedule.betas) == schedule.timesteps == timesteps
    assert schedule.betas[0] == 1e-4
    assert (np.diff(schedule.alphas_cumprod) < 0).all()


def test_a_step_back_restores_the_mean_and_the_variance_of_the_level_before():
    """x_t = sqrt(a) x0 + sqrt(1 - a) e must become a sample of level t - 1: sqrt(a') x0, variance 1 - a'."""
    b = {name: values.double() for name, values in NoiseSchedule(1000).buffers().items()}
    mean = b["posterior_mean_coef1"] + b["posterior_mean_coef2"] * b["sqrt_alphas_cumprod"]
    variance = b["posterior_mean_coef2"] ** 2 * (1 - b["alphas_cumprod"]) + b["posterior_variance"]
    # float32 buffers: one unit in the last place of 1 is 6e-8, and a few of them add up.
    torch.testing.assert_close(mean, b["alphas_cumprod_prev"].sqrt(), rtol=0, atol=3e-7)
    torch.testing.assert_close(variance, 1 - b["alphas_cumprod_prev"], rtol=0, atol=3e-7)


def test_the_log_variance_of_the_last_step_is_clipped_instead_of_infinite():
    buffers = NoiseSchedule(1000).buffers()
    assert buffers["posterior_variance"][0] == 0
    assert buffers["posterior_log_variance_clipped"][0] == pytest.approx(np.log(1e-20))
