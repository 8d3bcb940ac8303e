"""Fewer multiplications, the same numbers: outputs and gradients are those of torch's own convolutions."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modules.nn import winograd
from modules.nn.winograd import QuickConv1d, QuickConv2d, convolve, convolve_dilated
from vdecoder.discriminators import MultiPeriodDiscriminator


def outputs_and_gradients(x, weight, bias, convolution):
    inputs = [tensor.detach().clone().requires_grad_() for tensor in (x, weight, bias)]
    y = convolution(*inputs)
    slope = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return [y, *torch.autograd.grad(y, inputs, slope)]


@pytest.mark.parametrize("taps", [3, 5])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("height, width", [(5, 1), (12, 11), (13, 2), (64, 1), (66, 3)])
def test_outputs_and_gradients_are_those_of_a_plain_convolution(taps, padding, height, width):
    generator = torch.Generator().manual_seed(height)
    x = torch.randn(2, 24, height, width, generator=generator)
    weight = torch.randn(16, 24, taps, generator=generator) / (24 * taps) ** 0.5
    bias = torch.randn(16, generator=generator)
    found = outputs_and_gradients(x, weight, bias, lambda x, w, b: convolve(x, w, b, padding))
    wanted = outputs_and_gradients(x, weight, bias, lambda x, w, b: F.conv2d(x, w[..., None], b, 1, (padding, 0)))
    for a, b in zip(found, wanted, strict=True):
        # fp32 has 7 digits; the transforms cost one of them.
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * b.abs().max().item())


def test_only_wide_layers_in_training_take_this_way(monkeypatch):
    calls = []
    monkeypatch.setattr(winograd, "convolve", lambda x, *rest: calls.append(x.shape) or convolve(x, *rest))
    x = torch.randn(2, 192, 300)
    wide = QuickConv1d(192, 192, 5, padding=2)
    for layer in (
        QuickConv1d(192, 192, 5, padding=2, stride=2),
        QuickConv1d(192, 192, 5, padding=2, dilation=2),
        QuickConv1d(192, 192, 5, padding=2, groups=2),
        QuickConv1d(192, 192, 7, padding=3),
        QuickConv1d(192, 8, 5, padding=2),
        QuickConv1d(192, 192, 5, padding=2).eval(),
        QuickConv2d(192, 192, (3, 3), padding=1),
    ):
        layer(x[..., None] if isinstance(layer, nn.Conv2d) else x)
    wide(x[..., :100])
    with torch.autocast("cpu", torch.bfloat16):
        wide(x)
    assert not calls
    wide(x)
    QuickConv2d(192, 192, (5, 1), padding=(2, 0))(x[..., None])
    assert calls == [(2, 192, 300, 1)] * 2


def test_discriminators_score_alike_and_give_the_same_gradients_in_both_modes():
    torch.manual_seed(0)
    network = MultiPeriodDiscriminator(channels=160)
    wave = torch.rand(8, 1, 5120) * 2 - 1
    results = []
    for training in (True, False):
        network.train(training).zero_grad()
        scores, maps = network(wave)
        torch.stack([score.square().mean() for score in scores]).sum().backward()
        results.append([*scores, *(x for layers in maps for x in layers), *(p.grad for p in network.parameters())])
    for a, b in zip(*results, strict=True):
        # Where a value lies within rounding of 0, the slope of the leaky ReLU may be either.
        torch.testing.assert_close(a, b, rtol=0, atol=1e-3 * b.abs().max().item())


@pytest.mark.parametrize("taps, dilation", [(3, 2), (7, 3), (11, 5)])
@pytest.mark.parametrize("length, padding", [(60, None), (61, None), (64, 0), (77, 1)])
def test_a_dilated_convolution_is_that_of_torch(taps, dilation, length, padding):
    generator = torch.Generator().manual_seed(length)
    padding = dilation * (taps - 1) // 2 if padding is None else padding
    x = torch.randn(2, 6, length, generator=generator)
    weight = torch.randn(5, 6, taps, generator=generator) / (6 * taps) ** 0.5
    bias = torch.randn(5, generator=generator)
    found = outputs_and_gradients(x, weight, bias, lambda *given: convolve_dilated(*given, padding, dilation))
    wanted = outputs_and_gradients(x, weight, bias, lambda *given: F.conv1d(*given, 1, padding, dilation))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * b.abs().max().item())


def test_only_narrow_layers_with_long_dilated_kernels_are_written_in_rows(monkeypatch):
    calls = []
    monkeypatch.setattr(winograd, "convolve_dilated", lambda x, *rest: calls.append(rest[2:]) or x)
    x = torch.randn(1, 32, 50)
    for layer in (
        QuickConv1d(32, 32, 7, padding=3),
        QuickConv1d(32, 32, 3, padding=3, dilation=3),
        QuickConv1d(32, 32, 7, padding=9, dilation=3).eval(),
        QuickConv1d(32, 32, 7, padding=9, dilation=3, groups=2),
        QuickConv1d(32, 32, 7, padding=9, dilation=3, stride=2),
    ):
        layer(x)
    QuickConv1d(128, 128, 7, padding=9, dilation=3)(torch.randn(1, 128, 50))
    assert not calls
    QuickConv1d(32, 32, 7, padding=9, dilation=3)(x)
    assert calls == [(9, 3)]


@pytest.mark.parametrize("taps, stride", [(5, 3), (5, 1), (3, 1)])
@pytest.mark.parametrize("width", [2, 3])
def test_few_columns_are_convolved_as_by_torch_and_stay_in_order(taps, stride, width):
    generator = torch.Generator().manual_seed(taps)
    layer = QuickConv2d(6, 5, (taps, 1), (stride, 1), (taps // 2, 0))
    plain = nn.Conv2d(6, 5, (taps, 1), (stride, 1), (taps // 2, 0))
    x = torch.randn(2, 6, 40, width, generator=generator)
    given = x, layer.weight, layer.bias
    found = outputs_and_gradients(*given, lambda x, w, b: layer._conv_forward(x, w, b))
    wanted = outputs_and_gradients(*given, lambda x, w, b: plain._conv_forward(x, w, b))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * b.abs().max().item())
    assert found[0].transpose(2, 3).is_contiguous() and F.leaky_relu(found[0]).transpose(2, 3).is_contiguous()
    assert layer.eval()._conv_forward(*given).is_contiguous(), "only training takes this way"
