"""Tests of diffusion/samplers on data whose noise is known in closed form: a correlated Gaussian in two dimensions.

With data of mean mu and covariance C, level t has mean sqrt(a) mu and covariance S = a C + (1 - a) I, the exact guess
of the noise is sqrt(1 - a) S^-1 (x - sqrt(a) mu), and the deterministic way from level s to level t scales what is left
of the mean by sqrt(S_t / S_s) along each eigenvector of C. The recorded numbers of upstream are in the network's tests.
"""

import logging
import math

import numpy as np
import pytest
import torch
from golden_rule import counted_draws

from diffusion.samplers import base
from diffusion.samplers.base import SAMPLERS, n_evaluations, sample
from diffusion.schedule import NoiseSchedule
from modules.errors import UsageError

METHODS = ["ddim", "ddpm", "dpm-solver", "dpm-solver++", "pndm", "unipc"]
DETERMINISTIC = [name for name in METHODS if name != "ddpm"]
SCHEDULE = NoiseSchedule(1000)

# Nearly all of it is within +-1, because ddpm clamps its guess.
MEAN = np.array([0.25, -0.15])
COVARIANCE = np.array([[0.02, 0.012], [0.012, 0.03]])
SPREADS, AXES = np.linalg.eigh(COVARIANCE)


def kept_at(t: float) -> float:
    """Share of the signal at a level, or between two: log alpha is linear there."""
    return float(np.exp(np.interp(t, np.arange(1000), np.log(SCHEDULE.alphas_cumprod))))


def along_axes(x: torch.Tensor, factors: np.ndarray, kept_from: float, kept_to: float) -> torch.Tensor:
    """x (B, 1, 2, 1) less its mean, scaled along each eigenvector, plus the mean of the other level."""
    mean = torch.from_numpy(MEAN).to(x.dtype)[:, None]
    turned = torch.from_numpy(AXES @ np.diag(factors) @ AXES.T).to(x.dtype)
    return turned @ (x - math.sqrt(kept_from) * mean) + math.sqrt(kept_to) * mean


def exact_noise(x: torch.Tensor, t: float) -> torch.Tensor:
    kept = kept_at(t)
    return along_axes(x, math.sqrt(1 - kept) / (kept * SPREADS + 1 - kept), kept, 0.0)


def exact_flow(x: torch.Tensor, start: float, end: float) -> torch.Tensor:
    """Where the probability flow brings `x` of level `start`."""
    a, b = kept_at(start), kept_at(end)
    return along_axes(x, np.sqrt((b * SPREADS + 1 - b) / (a * SPREADS + 1 - a)), a, b)


def draw(n: int, level: int | None = None) -> torch.Tensor:
    """n samples of the data (n, 1, 2, 1), at a level of noise."""
    root = torch.from_numpy(np.linalg.cholesky(COVARIANCE)).float()
    x = root @ torch.randn(n, 1, 2, 1) + torch.from_numpy(MEAN).float()[:, None]
    if level is None:
        return x
    kept = kept_at(level)
    return math.sqrt(kept) * x + math.sqrt(1 - kept) * torch.randn_like(x)


def flow_error(method: str, speedup: int, k_step: int = 1000) -> float:
    """Root mean square distance from the exact flow; the data have a standard deviation of about 0.16."""
    torch.manual_seed(1)
    x = draw(2000, k_step - 1)
    found = sample(method, exact_noise, x, SCHEDULE, k_step, speedup)
    return float((found - exact_flow(x, k_step - 1, 0)).pow(2).mean().sqrt())


def test_these_are_the_samplers():
    assert SAMPLERS.names() == METHODS


# Covariance tolerance, relative to its largest entry, at so many levels per evaluation. 20,000 samples alone are off by
# up to 2 %. The rest is the method: ddpm draws the smaller of the two variances that bound the true one, so it loses
# spread, more with strides; the order-2 solvers lose it in their last, widest step of log signal-to-noise.
@pytest.mark.parametrize(
    ("method", "speedup", "tolerance"),
    [
        ("ddpm", 1, 0.06),
        ("ddpm", 10, 0.3),
        ("ddim", 10, 0.15),
        ("dpm-solver", 10, 0.1),
        ("dpm-solver++", 10, 0.18),
        ("pndm", 10, 0.03),
        ("unipc", 10, 0.05),
        ("unipc", 20, 0.15),
    ],
)
def test_pure_noise_becomes_the_data(method, speedup, tolerance):
    found = sample(method, exact_noise, torch.randn(20000, 1, 2, 1), SCHEDULE, 1000, speedup)
    points = found[:, 0, :, 0].double().numpy()
    # 0.17 / sqrt(20000) = 0.0012 is one standard error of the mean.
    np.testing.assert_allclose(points.mean(0), MEAN, atol=0.005)
    assert np.abs(np.cov(points.T) - COVARIANCE).max() < tolerance * COVARIANCE.max()


# Distances are about 1.3 times those measured, at 100, 50 and 20 evaluations; the data's deviation is 0.16.
@pytest.mark.parametrize(
    ("method", "at_10", "at_20", "at_50"),
    [
        ("ddim", 0.016, 0.030, 0.066),
        ("pndm", 0.0007, 0.0035, 0.027),
        ("dpm-solver", 0.007, 0.016, 0.026),
        ("dpm-solver++", 0.014, 0.032, 0.046),
        ("unipc", 0.005, 0.017, 0.060),
    ],
)
def test_more_steps_come_closer_to_the_exact_flow(method, at_10, at_20, at_50):
    errors = [flow_error(method, speedup) for speedup in (2, 10, 20, 50)]
    assert errors == sorted(errors)
    assert errors[0] < 0.3 * errors[1]
    assert all(error < limit for error, limit in zip(errors[1:], (at_10, at_20, at_50)))


@pytest.mark.parametrize(
    ("method", "least", "most"),
    [("ddim", 1.9, 2.1), ("dpm-solver", 2.8, 4.2), ("dpm-solver++", 2.8, 4.2), ("unipc", 2.8, 4.2), ("pndm", 2.8, 4.2)],
)
def test_twice_the_steps_divide_the_error_as_the_order_says(method, least, most):
    """By 2 at first order, by nearly 4 at second; pndm's first step, of second order, is what is left of its error."""
    assert least < flow_error(method, 4) / flow_error(method, 2) < most


# Measured: 0.0101 and 0.0042. With the wrong weights in the first, second or third step, 0.034 and more than 0.006.
@pytest.mark.parametrize(("k_step", "speedup", "limit"), [(41, 40, 0.012), (61, 20, 0.005)])
def test_pndm_starts_with_full_weights_before_it_has_four_guesses(k_step, speedup, limit):
    assert flow_error("pndm", speedup, k_step) < limit


def test_unipc_corrects_its_first_step_with_the_mean_of_the_guesses_at_both_ends():
    """Two steps, from level 99 by 49.5 to 0, written as blends of the noisy and the clean."""
    places = [(math.sqrt(kept_at(t)), math.sqrt(1 - kept_at(t)), t) for t in (99, 49.5, 0)]

    def clean(x, place):
        alpha, sigma, t = place
        return (x - sigma * exact_noise(x, t)) / alpha

    def step(x, start, end, guess):
        """The exact way for a guess that stays: the noise in `x` shrinks to the end's; the guess keeps its share."""
        noise = (x - start[0] * guess) / start[1]
        return end[0] * guess + end[1] * noise

    x = draw(100, 99)
    first = clean(x, places[0])
    second = clean(step(x, places[0], places[1], first), places[1])
    corrected = step(x, places[0], places[1], (first + second) / 2)
    wanted = step(corrected, places[1], places[2], second)
    found = sample("unipc", exact_noise, x, SCHEDULE, 100, 50)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("speedup", [1, 2, 10])
def test_no_steps_return_the_input(method, speedup):
    x = torch.randn(2, 1, 3, 4)
    assert sample(method, exact_noise, x, SCHEDULE, 0, speedup) is x
    assert n_evaluations(method, 0, speedup) == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("speedup", [1, 2, 10])
@pytest.mark.parametrize("k_step", [1, 2, 5])
def test_a_few_levels_of_noise_move_the_input_little(method, speedup, k_step):
    x = draw(500, k_step - 1)
    found = sample(method, exact_noise, x, SCHEDULE, k_step, speedup)
    # Noise of level k_step - 1 has this deviation; taking it out and, with ddpm, drawing some anew moves a point by it.
    deviation = math.sqrt(1 - kept_at(k_step - 1))
    assert torch.isfinite(found).all()
    assert (found - x).abs().max() < 5 * deviation


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("k_step", "speedup"), [(1, 1), (1, 10), (2, 2), (5, 10), (100, 10), (99, 10), (101, 7), (1000, 50)]
)
def test_progress_counts_the_evaluations(method, k_step, speedup):
    asked, ticks = [], []

    def denoise(x, t):
        asked.append(t)
        return exact_noise(x, t)

    sample(method, denoise, draw(2, k_step - 1), SCHEDULE, k_step, speedup, ticks.append)
    assert ticks == [1] * n_evaluations(method, k_step, speedup)
    assert len(asked) == len(ticks)
    assert all(isinstance(t, float) and 0 <= t <= k_step - 1 for t in asked)


@pytest.mark.parametrize("method", DETERMINISTIC)
def test_a_batch_of_three_is_three_single_ones(method):
    x = draw(3, 99)
    together = sample(method, exact_noise, x, SCHEDULE, 100, 10)
    alone = torch.cat([sample(method, exact_noise, one[None], SCHEDULE, 100, 10) for one in x])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("ddpm", [99, 74, 49, 24]),
        ("ddim", [75, 50, 25, 0]),
        ("pndm", [75, 50, 50, 25, 0]),  # the second of these is the look ahead of the first step
        ("dpm-solver", [99, 74.25, 49.5, 24.75]),
        ("dpm-solver++", [99, 74.25, 49.5, 24.75]),
        ("unipc", [99, 74.25, 49.5, 24.75]),
    ],
)
def test_the_network_is_asked_at_these_levels(method, wanted):
    asked = []

    def denoise(x, t):
        asked.append(t)
        return exact_noise(x, t)

    sample(method, denoise, draw(2, 99), SCHEDULE, 100, 25)
    assert asked == pytest.approx(wanted)


@pytest.mark.parametrize("method", [*METHODS, None])
def test_a_speedup_of_one_is_the_ancestral_chain_whatever_the_method(method):
    """The chain written down from the stored buffers, with the same draws."""
    x = draw(4, 11)
    b = SCHEDULE.buffers()
    torch.manual_seed(7)
    wanted = x
    for i in reversed(range(12)):
        clean = b["sqrt_recip_alphas_cumprod"][i] * wanted
        clean = (clean - b["sqrt_recipm1_alphas_cumprod"][i] * exact_noise(wanted, i)).clamp(-1, 1)
        mean = b["posterior_mean_coef1"][i] * clean + b["posterior_mean_coef2"][i] * wanted
        wanted = mean + (i > 0) * torch.exp(0.5 * b["posterior_log_variance_clipped"][i]) * torch.randn(x.shape)
    torch.manual_seed(7)
    found = sample(method, exact_noise, x, SCHEDULE, 12, 1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_no_method_is_the_ancestral_chain_in_strides():
    x = draw(2, 99)
    torch.manual_seed(3)
    named = sample("ddpm", exact_noise, x, SCHEDULE, 100, 10)
    torch.manual_seed(3)
    assert torch.equal(sample(None, exact_noise, x, SCHEDULE, 100, 10), named)


@pytest.mark.parametrize(("method", "draws"), [("ddpm", 5), *((name, 0) for name in DETERMINISTIC)])
def test_only_ddpm_draws_once_for_each_level_that_it_visits(method, draws):
    x = draw(2, 9)
    with counted_draws() as log:
        sample(method, exact_noise, x, SCHEDULE, 10, 2)
    assert log == [f"randn#{k} 2x1x2x1" for k in range(draws)]


def test_ddpm_keeps_its_guess_within_the_range_of_the_mels():
    """A network that finds no noise in a loud input: the guess is clamped at 1 all the same."""
    found = sample("ddpm", lambda x, t: torch.zeros_like(x), torch.full((1, 1, 2, 2), 30.0), SCHEDULE, 1, 1)
    torch.testing.assert_close(found, torch.ones(1, 1, 2, 2))


@pytest.mark.parametrize("method", METHODS)
def test_the_state_is_float32_whatever_the_input_is(method):
    seen = set()

    def denoise(x, t):
        seen.add(x.dtype)
        return exact_noise(x, t)

    x = draw(2, 99).half()
    assert sample(method, denoise, x, SCHEDULE, 100, 10).dtype == torch.float32
    assert seen == {torch.float32}


@pytest.mark.parametrize("method", METHODS)
def test_the_input_is_not_changed(method):
    x = draw(2, 99)
    before = x.clone()
    sample(method, exact_noise, x, SCHEDULE, 100, 10)
    assert torch.equal(x, before)


def test_an_unknown_sampler_is_an_error_that_lists_those_there_are():
    with pytest.raises(UsageError) as error:
        sample("dpm-solver+", exact_noise, draw(1), SCHEDULE, 10, 2)
    assert all(name in str(error.value) for name in METHODS)


@pytest.mark.parametrize(("k_step", "speedup"), [(-1, 10), (1001, 10), (10, 0), (10, -1)])
def test_steps_outside_the_chain_are_refused(k_step, speedup):
    with pytest.raises(ValueError, match="out of range"):
        sample("ddim", exact_noise, draw(1), SCHEDULE, k_step, speedup)


def test_the_log_says_once_that_a_solver_runs_below_its_order(caplog):
    base._say_order_is_lower.cache_clear()
    caplog.set_level(logging.INFO, base.__name__)
    for _ in range(2):
        sample("dpm-solver++", exact_noise, draw(1, 9), SCHEDULE, 10, 10)
        sample("dpm-solver++", exact_noise, draw(1, 99), SCHEDULE, 100, 10)
        sample("ddim", exact_noise, draw(1, 9), SCHEDULE, 10, 10)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert said[0].startswith("dpm-solver++: k_step 10 at speedup 10 is 1 evaluation of the network")


@pytest.mark.parametrize("method", ["ddim", "pndm"])
@pytest.mark.parametrize("k_step", [2, 5, 10])
def test_fewer_levels_than_a_stride_are_still_walked_down(method, k_step):
    """A clean signal of zero: what is left of the noise of level k_step - 1 is that of level 0."""
    schedule = NoiseSchedule(1000)

    def denoise(x, t):
        return x / (1 - schedule.alphas_cumprod[round(t)]) ** 0.5

    top = (1 - schedule.alphas_cumprod[k_step - 1]) ** 0.5
    x = sample(method, denoise, torch.full((1, 1, 1, 1), top), schedule, k_step, 10)
    assert float(x) == pytest.approx((1 - schedule.alphas_cumprod[0]) ** 0.5, rel=1e-4)
