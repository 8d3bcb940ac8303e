"""What a new run takes from a base model."""

import pytest
import torch
from damage import flip_a_bit
from tiny_voices import tiny_config
from training.test_resume import CPU, like_published, load, make_step, resume, train_a_little

from models import build_synthesizer
from modules.config.io import to_plain
from modules.errors import CheckpointError
from modules.training.loop import TrainState
from modules.training.step import VitsStep
from modules.weights.checkpoint import load_weights, save_weights
from vdecoder.discriminators import MultiPeriodDiscriminator


def test_a_base_gives_weights_only(tmp_path):
    config = tiny_config()
    step = make_step(config)
    train_a_little(step)
    like_published(tmp_path, step, "0")
    other = make_step(config, seed=2)
    assert load(tmp_path, other) == TrainState(0, 1, 0, has_base=True)
    assert torch.equal(other.net_g.emb_g.weight, step.net_g.emb_g.weight)
    assert torch.equal(
        other.net_d.discriminators[3].conv_post.weight_v, step.net_d.discriminators[3].conv_post.weight_v
    )
    assert not other.optim_g.state_dict()["state"]


def test_the_speakers_of_a_base_keep_their_vectors_and_new_ones_start_between_them(tmp_path, caplog):
    caplog.set_level("INFO")
    step = make_step(tiny_config({"n_speakers": 5}))
    like_published(tmp_path, step, "0")
    config, content = tiny_config(), load_weights(tmp_path / "G_0.pth")
    vectors = step.net_g.emb_g.weight.detach()
    for stored, known in (
        ({}, {}),
        ({"spk": {"bass": 4, "анна": 2}}, {"bass": 4, "анна": 2}),
        ({"spk": {"x": 99}}, {}),
    ):
        save_weights(tmp_path / "G_0.pth", {**content, "config": stored})
        other = make_step(config, seed=2)
        load(tmp_path, other)
        average = vectors[list(known.values())].mean(0) if known else vectors.mean(0)
        for name, number in config.spk.items():
            wanted = vectors[known[name]] if name in known else average
            torch.testing.assert_close(other.net_g.emb_g.weight[number], wanted)
        assert torch.equal(other.net_g.pre.weight, step.net_g.pre.weight)
    assert "G_0.pth: new speakers start from the average of its voices: alto" in caplog.text


@pytest.mark.parametrize(
    ("theirs", "ours", "part", "key", "kept"),
    [
        ({"vol_embedding": False}, {}, "untrained: emb_vol (", "model.vol_embedding", "pre.weight"),
        ({}, {"vol_embedding": False}, "not used: emb_vol (", "model.vol_embedding", "pre.weight"),
        ({}, {"ssl_dim": 9}, "untrained: some of pre (", "model.ssl_dim", "enc_p.proj.weight"),
        (
            {},
            {"gin_channels": 8},
            "untrained: emb_g, some of dec, some of enc_q, some of flow, some of f0_decoder (",
            "model.gin_channels",
            "pre.weight",
        ),
        ({}, {"use_automatic_f0_prediction": False}, "not used: f0_decoder (", "model.use_auto", "pre.weight"),
    ],
)
def test_of_a_base_that_fits_in_part_that_part_is_taken_and_the_rest_said(
    tmp_path, caplog, theirs, ours, part, key, kept
):
    base = make_step(tiny_config(theirs))
    like_published(tmp_path, base, "0")
    step = make_step(tiny_config(ours), seed=2)
    fresh = {name: value.clone() for name, value in step.net_g.state_dict().items()}
    assert load(tmp_path, step) == TrainState(has_base=True)
    assert torch.equal(step.net_g.state_dict()[kept], base.net_g.state_dict()[kept])
    (line,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert part in line and key in line and "G_0.pth: fits in part: " in line and "\n" not in line
    if ours.get("ssl_dim"):
        assert "model.ssl_dim is 6, in the config 9. With the base's sizes a new voice starts from all of it" in line
        assert torch.equal(step.net_g.state_dict()["pre.weight"], fresh["pre.weight"])


def test_a_base_for_another_number_of_speakers_brings_no_warning(tmp_path, caplog):
    like_published(tmp_path, make_step(tiny_config({"n_speakers": 200})), "0")
    assert resume(tmp_path, tiny_config()).has_base
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_base_of_another_encoder_that_fits_is_said(tmp_path, caplog):
    step = make_step(tiny_config())
    like_published(tmp_path, step, "0")
    content, config = load_weights(tmp_path / "G_0.pth"), tiny_config({"speech_encoder": "other"})
    save_weights(tmp_path / "G_0.pth", {**content, "config": to_plain(tiny_config())})
    assert resume(tmp_path, config).has_base
    assert "G_0.pth: this base was trained otherwise, so it helps less: model.speech_encoder was 'fake'" in caplog.text


def test_a_base_of_another_preset_is_refused_by_the_values_that_differ(tmp_path):
    like_published(tmp_path, make_step(tiny_config({"hidden_channels": 16, "upsample_initial_channel": 128})), "0")
    with pytest.raises(
        CheckpointError, match=r"another preset.*model\.hidden_channels is 16, in the config 8"
    ) as caught:
        resume(tmp_path, tiny_config({"inter_channels": 6}))
    assert "model.upsample_initial_channel is 128, in the config 32" in str(caught.value)
    assert "weight" not in str(caught.value)


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        ({"discriminator_channels": 64}, "model.discriminator_channels is 32, in the config 64"),
        ({"use_spectral_norm": True}, "other model.use_spectral_norm"),
    ],
)
def test_discriminators_of_another_preset_are_refused(tmp_path, ours, said):
    like_published(tmp_path, make_step(tiny_config()), "0")
    config = tiny_config(ours)
    net_d = MultiPeriodDiscriminator(config.model.use_spectral_norm, config.model.discriminator_channels)
    step = VitsStep(build_synthesizer(config), net_d, config, CPU)
    with pytest.raises(CheckpointError, match=rf"D_0\.pth: is of another preset than the config: {said}"):
        load(tmp_path, step)


def test_a_damaged_base_and_one_that_is_not_finite_are_refused(tmp_path):
    step = make_step(tiny_config())
    with torch.no_grad():
        step.net_g.pre.bias[0] = float("nan")
    like_published(tmp_path, step, "0")
    with pytest.raises(CheckpointError, match=r"G_0\.pth: pre\.bias holds numbers that are not finite"):
        resume(tmp_path, tiny_config())
    flip_a_bit(tmp_path / "G_0.pth")
    with pytest.raises(CheckpointError, match=r"G_0\.pth: damaged"):
        resume(tmp_path, tiny_config())


def test_half_a_base_is_used_and_said(tmp_path, caplog):
    like_published(tmp_path, make_step(tiny_config()), "0")
    (tmp_path / "D_0.pth").unlink()
    assert resume(tmp_path, tiny_config()).step == 0
    assert "G_0.pth: has no D_0.pth beside it" in caplog.text
