"""The losses are upstream's numbers."""

import golden_rule
import pytest
import torch
from golden_rule import tensor

from modules.losses import adversarial_loss, discriminator_loss, feature_loss, kl_loss


@pytest.fixture(scope="module")
def golden():
    return golden_rule.load_golden("rule/losses")


def scores(golden, which):
    return [tensor(golden[f"in_disc_{which}{i}"]) for i in range(6)]


def maps(golden, which):
    return [[tensor(golden[f"in_fmap_{which}{i}_{j}"]) for j in range(3)] for i in range(2)]


def test_adversarial_losses_equal_upstreams(golden):
    real, made = scores(golden, "r"), scores(golden, "g")
    assert discriminator_loss(real, made).item() == pytest.approx(float(golden["disc_loss"]), rel=1e-5)
    assert adversarial_loss(made).item() == pytest.approx(float(golden["gen_loss"]), rel=1e-5)


def test_feature_loss_equals_upstreams_and_teaches_only_the_made_side(golden):
    real, made = maps(golden, "r"), maps(golden, "g")
    for layer in (real[0][0], made[0][0]):
        layer.requires_grad_()
    loss = feature_loss(real, made)
    assert loss.item() == pytest.approx(float(golden["feature_loss"]), rel=1e-5)
    loss.backward()
    assert real[0][0].grad is None and made[0][0].grad.abs().sum() > 0


def test_kl_loss_equals_upstreams(golden):
    inputs = [tensor(golden[f"in_kl_{name}"]) for name in ("z_p", "logs_q", "m_p", "logs_p", "mask")]
    assert kl_loss(*inputs).item() == pytest.approx(float(golden["kl_loss"]), rel=1e-5)
    assert torch.equal(kl_loss(*inputs[:4], inputs[4].bool()), kl_loss(*inputs))


def test_padding_has_no_part_in_the_kl_loss(golden):
    inputs = [tensor(golden[f"in_kl_{name}"]) for name in ("z_p", "logs_q", "m_p", "logs_p", "mask")]
    padded = [torch.nn.functional.pad(x, (0, 5)) for x in inputs]
    torch.testing.assert_close(kl_loss(*padded), kl_loss(*inputs))


@pytest.mark.parametrize("loss", [discriminator_loss, lambda real, made: adversarial_loss(made)])
def test_losses_are_fp32_whatever_the_precision_of_the_scores(loss):
    real, made = [torch.rand(2, 5).half()], [torch.rand(2, 5).half()]
    assert loss(real, made).dtype == torch.float32
