"""Discriminators have upstream's names and shapes at full width, and the same arrangement at any other."""

import json
import lzma
from itertools import chain

import golden_rule
import pytest
import torch

from vdecoder.discriminators import PERIODS, MultiPeriodDiscriminator

DISCRIMINATORS = json.loads(lzma.decompress((golden_rule.GOLDENS / "statedicts/discriminators.json.xz").read_bytes()))


@pytest.mark.parametrize("name, use_spectral_norm", [("D", False), ("D_spectral", True)])
def test_the_names_shapes_and_order_of_a_checkpoint_are_upstreams(name, use_spectral_norm):
    with torch.device("meta"):
        network = MultiPeriodDiscriminator(use_spectral_norm)
    found = {key: list(value.shape) for key, value in network.state_dict().items()}
    assert found == DISCRIMINATORS[name] and list(found) == list(DISCRIMINATORS[name])


@pytest.mark.parametrize("channels", [8, 100, 128, 256])
def test_channels_scale_every_layer(channels):
    with torch.device("meta"):
        full, narrow = MultiPeriodDiscriminator(), MultiPeriodDiscriminator(channels=channels)
    for (name, wide), (_, small) in zip(full.named_parameters(), narrow.named_parameters(), strict=True):
        if name.endswith("bias"):
            assert small.shape[0] == (1 if "post" in name else max(1, wide.shape[0] * channels // 1024)), name
    groups = [conv.groups for conv in narrow.discriminators[0].convs]
    if channels == 256:
        assert groups == [1, 1, 4, 16, 64, 1], "four input channels to a group, as at full width"


@pytest.mark.parametrize("use_spectral_norm", [False, True])
@pytest.mark.parametrize("n_samples", [2310, 2311, 5120])
def test_every_discriminator_scores_the_whole_wave(n_samples, use_spectral_norm):
    network = MultiPeriodDiscriminator(use_spectral_norm, channels=16)
    scores, maps = network(torch.rand(2, 1, n_samples) * 2 - 1)
    assert len(scores) == len(maps) == 1 + len(PERIODS)
    assert all(score.shape[0] == 2 and score.dim() == 2 and score.isfinite().all() for score in scores)
    assert [len(layers) for layers in maps] == [7, 6, 6, 6, 6, 6]
    for score, layers in zip(scores, maps):
        assert torch.equal(layers[-1].flatten(1), score), "the score is the last map"


def test_items_of_a_batch_do_not_touch_each_other():
    network = MultiPeriodDiscriminator(channels=32)
    waves = torch.rand(3, 1, 3000) * 2 - 1
    together, maps = network(waves)
    for index in range(3):
        alone, maps_alone = network(waves[index : index + 1])
        for a, b in zip(chain(together, *maps), chain(alone, *maps_alone), strict=True):
            torch.testing.assert_close(a[index : index + 1], b, atol=1e-6, rtol=1e-4)


def test_a_column_of_period_p_sees_every_pth_sample_only():
    network = MultiPeriodDiscriminator(channels=32).discriminators[3]
    wave = torch.rand(1, 1, 50 * network.period, requires_grad=True)
    _, maps = network(wave)
    maps[-1][..., 2].sum().backward()
    touched = wave.grad.view(-1, network.period).abs().sum(dim=0) > 0
    assert touched.tolist() == [False, False, True, False, False]
