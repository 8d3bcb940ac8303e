"""Losses equal upstream's numbers, and a few values that can be worked out by hand."""

import math

import golden_rule
import pytest
import torch
from golden_rule import tensor

from modules.training.losses import adversarial_loss, discriminator_loss, feature_loss, kl_loss, stft_loss

GOLDEN = golden_rule.load_golden("rule/losses")


def maps_of(kind: str) -> list[list[torch.Tensor]]:
    names = sorted(key for key in GOLDEN if key.startswith(f"in_fmap_{kind}"))
    groups = sorted({name.removeprefix(f"in_fmap_{kind}").split("_")[0] for name in names}, key=int)
    return [[tensor(GOLDEN[name]) for name in names if name.startswith(f"in_fmap_{kind}{group}_")] for group in groups]


def scores_of(kind: str) -> list[torch.Tensor]:
    return [tensor(GOLDEN[f"in_disc_{kind}{index}"]) for index in range(6)]


def close(found: torch.Tensor, key: str) -> bool:
    return abs(float(found) - float(GOLDEN[key])) <= 1e-5 * abs(float(GOLDEN[key]))


def test_losses_equal_upstreams():
    assert close(feature_loss(maps_of("r"), maps_of("g")), "feature_loss")
    assert close(discriminator_loss(scores_of("r"), scores_of("g")), "disc_loss")
    assert close(adversarial_loss(scores_of("g")), "gen_loss")
    inputs = [tensor(GOLDEN[f"in_kl_{name}"]) for name in ("z_p", "logs_q", "m_p", "logs_p", "mask")]
    assert close(kl_loss(*inputs), "kl_loss")
    inputs[-1] = inputs[-1].bool()
    assert close(kl_loss(*inputs), "kl_loss")


def test_perfect_scores_cost_nothing():
    ones, zeros = [torch.ones(2, 5)], [torch.zeros(2, 5)]
    assert discriminator_loss(ones, zeros) == 0 and discriminator_loss(zeros, ones) == 2
    assert adversarial_loss(ones) == 0 and adversarial_loss(zeros) == 1


def test_equal_distributions_diverge_by_nothing_on_average():
    torch.manual_seed(1)
    mean, logs = torch.randn(1, 4, 20000), 0.3 * torch.randn(1, 4, 20000)
    sample = mean + torch.randn_like(mean) * logs.exp()
    assert abs(kl_loss(sample, logs, mean, logs, torch.ones(1, 1, 20000))) < 0.05


def test_no_gradient_flows_into_the_real_maps():
    real, made = torch.rand(2, 3, requires_grad=True), torch.rand(2, 3, requires_grad=True)
    feature_loss([[real]], [[made]]).backward()
    assert real.grad is None and made.grad is not None


def test_padded_frames_have_no_part_in_the_divergence():
    z, logs = torch.randn(1, 4, 10), torch.zeros(1, 4, 10)
    mask = (torch.arange(10) < 6).view(1, 1, 10)
    cut = kl_loss(z[..., :6], logs[..., :6], logs[..., :6], logs[..., :6], mask[..., :6])
    z[..., 6:] = 1e3
    torch.testing.assert_close(kl_loss(z, logs, logs, logs, mask), cut)


def test_half_precision_scores_are_judged_in_single_precision():
    scores = [torch.full((2, 5), 300.0, dtype=torch.float16)]
    assert discriminator_loss(scores, scores).isfinite(), "300 squared is too large for fp16"


def test_linear_spectra_tell_pitches_apart_and_equal_ones_cost_nothing():
    times = torch.arange(10240) / 44100
    low, near, far = (torch.sin(2 * torch.pi * f * times)[None] for f in (220.0, 230.0, 440.0))
    assert stft_loss(low, low).item() == 0
    assert 0.1 < stft_loss(low, near) < stft_loss(low, far)
    made = low.clone().requires_grad_()
    real = far.clone().requires_grad_()
    stft_loss(real, made * 0.5).backward()
    assert made.grad.abs().max() > 0 and real.grad is None


def test_a_wave_of_twice_the_height_costs_what_can_be_worked_out():
    wave = torch.randn(2, 8192, generator=torch.Generator().manual_seed(0))
    assert stft_loss(wave, 2 * wave).item() == pytest.approx(1 + math.log(2), rel=1e-3)
