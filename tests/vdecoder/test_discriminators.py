"""Discriminators have upstream's tensors, scale with one number, and judge waves of any length."""

import json
import lzma

import golden_rule
import pytest
import torch

from vdecoder.discriminators import MultiPeriodDiscriminator, PeriodDiscriminator

CHECKPOINTS = json.loads(lzma.decompress((golden_rule.GOLDENS / "statedicts/discriminators.json.xz").read_bytes()))


@pytest.mark.parametrize(("name", "use_spectral_norm"), [("D", False), ("D_spectral", True)])
def test_the_names_shapes_and_order_of_a_checkpoint_are_upstreams(name, use_spectral_norm):
    wanted = CHECKPOINTS[name]["shapes"]
    with torch.device("meta"):
        network = MultiPeriodDiscriminator(use_spectral_norm)
    found = {key: list(value.shape) for key, value in network.state_dict().items()}
    assert found == wanted and list(found) == list(wanted)


def test_the_order_of_parameters_is_upstreams_so_that_its_optimizer_states_fit():
    wanted = golden_rule.load_golden("rule/train_step_small")["disc_keys"].tolist()
    with torch.device("meta"):
        network = MultiPeriodDiscriminator()
    assert [name for name, _ in network.named_parameters()] == wanted


@pytest.mark.parametrize("channels", [1, 16, 64, 100, 128, 1024])
def test_one_number_scales_every_layer(channels):
    with torch.device("meta"):
        network = MultiPeriodDiscriminator(channels=channels)
    scale, period = network.discriminators[0], network.discriminators[1]
    for convs, widths in ((scale.convs, (16, 64, 256, 1024, 1024, 1024)), (period.convs, (32, 128, 512, 1024, 1024))):
        assert [conv.out_channels for conv in convs] == [max(1, width * channels // 1024) for width in widths]
    if channels % 64 == 0:
        inputs = [conv.in_channels // conv.groups for conv in list(scale.convs)[1:5]]
        assert inputs == [min(4, conv.in_channels) for conv in list(scale.convs)[1:5]]


@pytest.mark.parametrize("use_spectral_norm", [False, True])
def test_six_discriminators_give_scores_and_every_map(use_spectral_norm):
    network = MultiPeriodDiscriminator(use_spectral_norm, channels=32)
    scores, maps = network(torch.rand(2, 1, 1031))
    assert len(scores) == len(maps) == 6 and [len(layers) for layers in maps] == [7, 6, 6, 6, 6, 6]
    for score, layers in zip(scores, maps):
        assert score.shape[0] == 2 and score.dim() == 2
        torch.testing.assert_close(layers[-1].flatten(1), score)


def test_a_wave_is_judged_alike_alone_and_in_a_batch():
    network, wav = MultiPeriodDiscriminator(channels=32), torch.rand(3, 1, 2048)
    together, _ = network(wav)
    alone, _ = network(wav[1:2])
    for a, b in zip(together, alone):
        torch.testing.assert_close(a[1:2], b)


def test_a_period_looks_at_each_column_by_itself():
    network = PeriodDiscriminator(5, channels=32)
    wav = torch.rand(1, 1, 1000)
    changed = wav.clone()
    changed[..., 2::5] += 1
    a, b = (network(x)[0].view(-1, 5) for x in (wav, changed))
    same = torch.tensor([0, 1, 3, 4])
    assert torch.equal(a[:, same], b[:, same]) and not torch.equal(a[:, 2], b[:, 2])
