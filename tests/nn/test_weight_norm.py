"""Weight norm equals torch's, folds without changing the output, and keeps the names of checkpoints."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from modules.nn.weight_norm import NormedConv1d, NormedConvTranspose1d, fold_weight_norm

LAYERS = [
    (lambda: NormedConv1d(6, 4, 3, padding=1, groups=2), lambda: nn.Conv1d(6, 4, 3, padding=1, groups=2)),
    (lambda: NormedConvTranspose1d(6, 4, 8, 4, padding=2), lambda: nn.ConvTranspose1d(6, 4, 8, 4, padding=2)),
]


@pytest.mark.parametrize(("make", "make_plain"), LAYERS)
def test_a_layer_equals_torchs_own_weight_norm_and_starts_as_the_plain_layer(make, make_plain):
    torch.manual_seed(1)
    layer = make()
    torch.manual_seed(1)
    plain = make_plain()
    x = torch.randn(2, 6, 20)
    torch.testing.assert_close(layer(x), plain(x))
    reference = parametrizations.weight_norm(plain)
    with torch.no_grad():
        layer.weight_g.mul_(1.7)
        layer.weight_v.add_(torch.randn(layer.weight_v.shape))
        reference.parametrizations.weight.original0.copy_(layer.weight_g)
        reference.parametrizations.weight.original1.copy_(layer.weight_v)
    torch.testing.assert_close(layer(x), reference(x))


@pytest.mark.parametrize(("make", "make_plain"), LAYERS)
def test_folding_keeps_the_output_and_leaves_one_weight(make, make_plain):
    layer = make()
    with torch.no_grad():
        layer.weight_g.mul_(0.3)
    x = torch.randn(1, 6, 9)
    before = layer(x)
    assert [name for name, _ in layer.named_parameters()] == ["bias", "weight_g", "weight_v"]
    fold_weight_norm(nn.Sequential(layer))
    fold_weight_norm(layer)  # twice does no harm
    assert [name for name, _ in layer.named_parameters()] == ["bias", "weight"]
    torch.testing.assert_close(layer(x), before)


def test_both_parts_of_the_weight_get_gradients():
    layer = NormedConv1d(3, 5, 3)
    layer(torch.randn(1, 3, 8)).square().sum().backward()
    assert layer.weight_g.grad.abs().sum() > 0 and layer.weight_v.grad.abs().sum() > 0


def test_it_works_in_half_precision_autocast_and_on_the_meta_device():
    layer, x = NormedConv1d(4, 4, 3, padding=1), torch.randn(1, 4, 16)
    wanted = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer(x).float(), wanted, atol=0.03, rtol=0.03)
    torch.testing.assert_close(layer.to(torch.bfloat16)(x.bfloat16()).float(), wanted, atol=0.03, rtol=0.03)
    with torch.device("meta"):
        assert NormedConv1d(4, 6, 3)(torch.empty(1, 4, 16)).shape == (1, 6, 14)
