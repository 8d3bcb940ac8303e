"""Another order in memory, the same numbers: outputs are those of torch's own layers, and training keeps its layers."""

import copy

import pytest
import torch
from torch import nn

from modules.nn import channels_last as layout
from modules.nn.channels_last import QuickLinear, channels_last, convolve, is_channels_last, lower_linear, quicken
from modules.nn.weight_norm import NormedConv1d, NormedConvTranspose1d, fold_weight_norm

needs_kernels = pytest.mark.skipif(not layout._HAS_KERNELS, reason="only x86 has them")
SIZES = [{}, {"padding": 3}, {"stride": 2, "padding": 1}, {"dilation": 3, "padding": 9}, {"groups": 4}]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_convolution_is_that_of_torch_in_either_layout(sizes, batch):
    torch.manual_seed(0)
    conv = nn.Conv1d(16, 24, 7, **sizes)
    x = torch.randn(batch, 16, 61)
    with torch.no_grad():
        found = convolve(conv, channels_last(x))
        torch.testing.assert_close(found, conv(x), rtol=0, atol=1e-5)
        assert is_channels_last(found) == layout._HAS_KERNELS
        assert not is_channels_last(convolve(conv, x))


@pytest.mark.parametrize("kernel, rate", [(16, 8), (11, 5), (4, 2)])
def test_a_transposed_convolution_is_that_of_torch(kernel, rate):
    torch.manual_seed(0)
    extra = kernel - rate
    sizes = {"stride": rate, "padding": (extra + 1) // 2, "output_padding": extra % 2}
    up = fold_weight_norm(NormedConvTranspose1d(16, 8, kernel, **sizes))
    x = torch.randn(2, 16, 31)
    with torch.no_grad():
        torch.testing.assert_close(up(channels_last(x)), up(x), rtol=0, atol=1e-5)


def test_a_linear_layer_is_that_of_torch():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 8, bias=False))
    x = torch.randn(2, 33, 24)
    with torch.no_grad():
        wanted, plain = network(x), copy.deepcopy(network)
        quicken(network)
        assert isinstance(network[0], QuickLinear) and isinstance(network[2], QuickLinear)
        torch.testing.assert_close(network(x), wanted, rtol=0, atol=1e-5)
        torch.testing.assert_close(network(x.transpose(0, 1)), wanted.transpose(0, 1), rtol=0, atol=1e-5)
        for rows in (x[:, :3], x[0], x[0, 0], x[:, :0]):
            torch.testing.assert_close(network(rows), plain(rows), rtol=0, atol=1e-5)


def test_a_lowered_linear_layer_rounds_its_factors_and_gives_what_it_is_given():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(24, 40), nn.LayerNorm(40))
    x = torch.randn(2, 33, 24)
    with torch.no_grad():
        quicken(network)
        wanted = network(x)
        lower_linear(network, torch.bfloat16)
        found = network(x)
    assert network[0].weight.dtype == network[0].bias.dtype == torch.bfloat16
    assert network[1].weight.dtype == found.dtype == torch.float32
    assert 0 < (found - wanted).abs().max() < 0.04  # bf16 has eight bits


@needs_kernels
def test_only_inference_changes_the_layout():
    x = torch.randn(1, 16, 61)
    assert channels_last(x) is x  # gradients are on
    with torch.no_grad():
        assert channels_last(x.double()).stride() == x.stride()
        assert channels_last(x.half()).stride() == x.stride()
        laid = channels_last(x)
        assert laid.stride() == (16 * 61, 1, 16) and channels_last(laid) is laid
    assert not is_channels_last(laid)
    wanted = NormedConv1d(16, 16, 3)(laid)  # in training such a tensor is one like any other
    assert wanted.is_contiguous() and wanted.requires_grad


def test_without_the_kernels_everything_is_as_torch_has_it(monkeypatch):
    monkeypatch.setattr(layout, "_HAS_KERNELS", False)
    x = torch.randn(1, 16, 61)
    with torch.no_grad():
        assert channels_last(x) is x
