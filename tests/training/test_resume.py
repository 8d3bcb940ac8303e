"""Where a run starts: from the newest whole pair, from a base, or not at all; never from zero by mistake."""

import logging
import random

import numpy as np
import pytest
import torch
from damage import flip_a_bit
from tiny_voices import tiny_config

from models import build_synthesizer
from modules.config.io import to_plain
from modules.errors import CheckpointError
from modules.training.distributed import Group, random_state
from modules.training.loop import TrainState
from modules.training.resume import find_pairs, load_start, prune_pairs, save_state
from modules.training.step import VitsStep
from modules.weights.checkpoint import load_weights, save_weights
from vdecoder.discriminators import MultiPeriodDiscriminator

CPU = torch.device("cpu")


def make_step(config, seed=1) -> VitsStep:
    torch.manual_seed(seed)
    net_d = MultiPeriodDiscriminator(channels=config.model.discriminator_channels)
    return VitsStep(build_synthesizer(config), net_d, config, CPU)


def resume(folder, config) -> TrainState:
    return load(folder, make_step(config, seed=2))


def load(folder, step, group=None) -> TrainState:
    return load_start(folder, step, group or Group())[0]


def save(folder, state, step, **more):
    return save_state(folder, state, step, [random_state(CPU)], **more)


def saved_run(folder, config, *steps) -> VitsStep:
    step = make_step(config)
    for number in steps:
        save(folder, TrainState(number, 3, 1), step)
    return step


def like_published(folder, step: VitsStep, name: str = "800") -> None:
    """The same networks in the layout of so-vits-svc, which stores neither step nor config."""
    for prefix, net, optimizer in (("G", step.net_g, step.optim_g), ("D", step.net_d, step.optim_d)):
        content = {
            "model": net.state_dict(),
            "iteration": 5,
            "optimizer": optimizer.state_dict(),
            "learning_rate": 1e-4,
        }
        save_weights(folder / f"{prefix}_{name}.pth", content)


def train_a_little(step: VitsStep) -> None:
    """Gives every parameter a moment."""
    for optimizer in (step.optim_g, step.optim_d):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.full_like(parameter, 0.1)
        optimizer.step()


def test_a_checkpoint_has_upstreams_layout_and_only_plain_content(tmp_path):
    config = tiny_config()
    saved_run(tmp_path, config, 12)
    for name in ("G_12.pth", "D_12.pth"):
        content = torch.load(tmp_path / name, weights_only=True)
        assert {"model", "iteration", "optimizer", "learning_rate"} <= set(content)
        assert content["iteration"] == 3 and content["learning_rate"] == config.train.learning_rate
        assert content["step"] == 12 and content["config"]["model"]["ssl_dim"] == 6
    assert not list(tmp_path.glob(".*"))


def test_the_card_of_a_generator_is_not_needed_to_go_on(tmp_path):
    config = tiny_config()
    save(tmp_path, TrainState(12, 3, 1), make_step(config), card={"notes": [1, 2]})
    g, d = (load_weights(tmp_path / f"{prefix}_12.pth") for prefix in "GD")
    assert g["card"] == {"notes": [1, 2], "steps": 12}
    assert set(g) - set(d) == {"card"} and resume(tmp_path, config) == TrainState(12, 3, 1)


def test_what_was_saved_is_what_a_run_goes_on_from(tmp_path):
    config = tiny_config()
    step = make_step(config)
    train_a_little(step)
    save(tmp_path, TrainState(12, 3, 1), step)
    state = torch.get_rng_state()
    other = make_step(config, seed=2)
    assert load(tmp_path, other) == TrainState(12, 3, 1)
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in ((step.net_g, other.net_g), (step.net_d, other.net_d)):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    moments = other.optim_g.state_dict()["state"]
    assert moments and all(float(value["step"]) == 1 for value in moments.values())


def test_a_published_checkpoint_gives_step_by_its_name_and_epoch_by_its_iteration(tmp_path):
    config = tiny_config()
    step = make_step(config)
    train_a_little(step)
    like_published(tmp_path, step)
    assert resume(tmp_path, config) == TrainState(800, 5, 0)


def test_a_stripped_optimizer_starts_afresh_and_says_so(tmp_path, caplog):
    config = tiny_config()
    like_published(tmp_path, make_step(config))
    assert resume(tmp_path, config).step == 800
    assert "G_800.pth: holds no optimizer state" in caplog.text


def test_settings_of_the_optimizer_are_those_of_the_config(tmp_path):
    config = tiny_config()
    step = make_step(config)
    train_a_little(step)
    save(tmp_path, TrainState(1), step)
    config.train.betas, config.train.learning_rate = [0.5, 0.6], 7e-4
    other = make_step(config)
    load(tmp_path, other)
    group = other.optim_g.param_groups[0]
    assert tuple(group["betas"]) == (0.5, 0.6) and group["lr"] == 7e-4


def test_the_newest_pair_counts_by_step_not_by_date(tmp_path):
    saved_run(tmp_path, tiny_config(keep_ckpts=0), 1000, 900)
    assert find_pairs(tmp_path)[0][0].name == "G_1000.pth"


@pytest.mark.parametrize("lost", ["G_20.pth", "D_20.pth"])
def test_half_a_pair_is_passed_over_for_the_newest_whole_one(tmp_path, caplog, lost):
    config = tiny_config()
    saved_run(tmp_path, config, 10, 20)
    (tmp_path / lost).unlink()
    assert resume(tmp_path, config).step == 10
    assert f"has no {lost} beside it" in caplog.text


def test_a_generator_without_discriminators_is_refused_with_the_ways_out(tmp_path):
    saved_run(tmp_path, tiny_config(), 20)
    (tmp_path / "D_20.pth").unlink()
    with pytest.raises(CheckpointError, match=r"G_20\.pth: has no D_20\.pth beside it.*rename G_20\.pth to G_0\.pth"):
        find_pairs(tmp_path)


def test_a_kill_within_the_very_first_save_leaves_nothing_in_the_way(tmp_path, caplog):
    saved_run(tmp_path, tiny_config(), 20)
    (tmp_path / "G_20.pth").unlink()  # the discriminators take their name first
    assert find_pairs(tmp_path) == [] and "D_20.pth" in caplog.text


@pytest.mark.parametrize("name", ["G_20.pth", "D_20.pth"])
@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "flipped"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_and_that_is_said(tmp_path, caplog, name, damage):
    config = tiny_config()
    saved_run(tmp_path, config, 10, 20)
    path = tmp_path / name
    content = path.read_bytes()
    if damage == "flipped":
        flip_a_bit(path)
    else:
        path.write_bytes({"cut": content[:-500], "garbage": b"broken", "empty": b""}[damage])
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert resume(tmp_path, config).step == 10
    assert f"{name}: " in caplog.text and "Going back to" in caplog.text and "10 steps are to be" in caplog.text
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["G_20.pth", "D_20.pth"])
@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "other"])
def test_a_damaged_checkpoint_without_another_is_refused_and_left_alone(tmp_path, name, damage):
    config = tiny_config()
    saved_run(tmp_path, config, 20)
    path = tmp_path / name
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-500], "garbage": b"broken", "empty": b"", "other": b""}[damage])
    if damage == "other":
        save_weights(path, {"weights": {}})
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")) as caught:
        resume(tmp_path, config)
    assert "\n" not in str(caught.value)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_another_config_is_refused_and_every_key_named(tmp_path):
    saved_run(tmp_path, tiny_config(), 20)
    changed = tiny_config({"hidden_channels": 16, "discriminator_channels": 64, "n_speakers": 5})
    with pytest.raises(CheckpointError) as caught:
        resume(tmp_path, changed)
    for text in (
        "model.hidden_channels was 8, now 16",
        "model.discriminator_channels was 32, now 64",
        "model.n_speakers was 2, now 5",
    ):
        assert text in str(caught.value)


def test_another_encoder_is_refused_though_every_tensor_fits(tmp_path):
    saved_run(tmp_path, tiny_config(), 20)
    with pytest.raises(CheckpointError, match=r"model\.speech_encoder was 'fake', now 'whisper-ppg'"):
        resume(tmp_path, tiny_config({"speech_encoder": "whisper-ppg"}))


def test_speakers_that_changed_places_are_refused(tmp_path):
    saved_run(tmp_path, tiny_config(), 20)
    swapped = tiny_config()
    swapped.spk = {"bass": 0, "alto": 1}
    with pytest.raises(CheckpointError, match="the id of 'alto' was 0, now 1"):
        resume(tmp_path, swapped)


def test_what_does_not_touch_the_model_may_change(tmp_path):
    saved_run(tmp_path, tiny_config(), 20)
    changed = tiny_config({"p_dropout": 0.2}, batch_size=7, segment_size=8192, c_mel=30, keep_ckpts=1, log_interval=3)
    assert resume(tmp_path, changed).step == 20


def test_a_published_checkpoint_of_another_shape_is_refused_by_tensor(tmp_path):
    like_published(tmp_path, make_step(tiny_config()))
    with pytest.raises(CheckpointError, match=r"G_800\.pth: does not fit .*Likely cause: model\.\w+"):
        resume(tmp_path, tiny_config({"inter_channels": 16}))
    with pytest.raises(CheckpointError, match=r"D_800\.pth: .*model\.discriminator_channels"):
        resume(tmp_path, tiny_config({"discriminator_channels": 64}))


def test_a_compressed_model_cannot_be_trained_on(tmp_path):
    step = make_step(tiny_config())
    like_published(tmp_path, step)
    content = load_weights(tmp_path / "G_800.pth")
    content["model"] = {name: value.clone() for name, value in content["model"].items() if not name.startswith("enc_q")}
    save_weights(tmp_path / "G_800.pth", content)
    with pytest.raises(CheckpointError, match="compressed for conversion"):
        resume(tmp_path, tiny_config())


def test_step_zero_is_never_written(tmp_path):
    config = tiny_config()
    with pytest.raises(AssertionError):
        save(tmp_path, TrainState(), make_step(config))


def test_pruning_counts_whole_pairs(tmp_path):
    for step in (0, 5, 10, 15, 20):
        for prefix in "GD":
            save_weights(tmp_path / f"{prefix}_{step}.pth", {})
    (tmp_path / "G_15.pth").unlink()
    save_weights(tmp_path / "D_99.pth", {})
    with_zero = ["D_0", "D_10", "D_15", "D_20", "D_99", "G_0", "G_10", "G_20"]
    prune_pairs(tmp_path, 0, 99)
    assert len(list(tmp_path.iterdir())) == 10
    prune_pairs(tmp_path, 2, 20)
    assert sorted(path.stem for path in tmp_path.iterdir()) == with_zero


def test_a_damaged_pair_does_not_outlive_the_whole_ones_before_it(tmp_path):
    config = tiny_config(keep_ckpts=0)
    step = saved_run(tmp_path, config, 10, 20)
    (tmp_path / "G_20.pth").write_bytes(b"broken")
    config.train.keep_ckpts = 1
    assert resume(tmp_path, config).step == 10
    save(tmp_path, TrainState(15, 3, 1), step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["D_15.pth", "D_20.pth", "G_15.pth", "G_20.pth"]
    assert resume(tmp_path, config).step == 15


def test_an_empty_folder_is_a_fresh_start(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert resume(tmp_path, tiny_config()) == TrainState()
    assert not caplog.text


def test_another_learning_rate_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    saved_run(tmp_path, tiny_config(), 20)
    resume(tmp_path, tiny_config())
    assert "the new rate counts" not in caplog.text
    resume(tmp_path, tiny_config(learning_rate=5e-4))
    assert "train.learning_rate was 0.001 when" in caplog.text and "is 0.0005 now" in caplog.text


def test_all_random_numbers_go_on_where_they_were(tmp_path):
    config, step = tiny_config(), make_step(tiny_config())
    save(tmp_path, TrainState(12, 3, 1), step)
    wanted = torch.rand(3).tolist(), random.random(), np.random.rand(3).tolist()  # noqa: NPY002
    resume(tmp_path, config)
    assert (torch.rand(3).tolist(), random.random(), np.random.rand(3).tolist()) == wanted  # noqa: NPY002


def test_more_ranks_than_saved_get_random_numbers_of_their_own(tmp_path):
    step = make_step(tiny_config())
    save(tmp_path, TrainState(12, 3, 1), step)
    drawn = set()
    for rank in range(3):
        load(tmp_path, step, Group(rank, 3))
        drawn.add(float(torch.rand(1)))
    assert len(drawn) == 3


def test_the_place_in_the_epoch_is_kept_when_batches_change_their_size(tmp_path):
    step = make_step(tiny_config(batch_size=4))
    save(tmp_path, TrainState(12, 3, 6), step)
    assert resume(tmp_path, tiny_config(batch_size=2)) == TrainState(12, 3, 12)
    assert resume(tmp_path, tiny_config(batch_size=8)) == TrainState(12, 3, 3)
    assert load(tmp_path, step, Group(0, 2)) == TrainState(12, 3, 3)


def test_discriminators_of_another_step_or_run_are_refused(tmp_path):
    config = tiny_config()
    saved_run(tmp_path / "a", config, 1, 2)
    random.random()
    torch.rand(1)
    saved_run(tmp_path / "b", tiny_config(seed=5), 2)
    whole = (tmp_path / "a/D_2.pth").read_bytes()
    (tmp_path / "a/D_2.pth").write_bytes((tmp_path / "a/D_1.pth").read_bytes())
    with pytest.raises(CheckpointError, match=r"D_2\.pth: was saved at step 1\. Give it its name D_1\.pth back"):
        resume(tmp_path / "a", config)
    state = load_weights(tmp_path / "b/D_2.pth")
    state["random"]["cpu"] = torch.Generator().manual_seed(9).get_state()
    save_weights(tmp_path / "a/D_2.pth", {**state, "config": to_plain(config)})
    with pytest.raises(CheckpointError, match=r"G_2\.pth: was not saved together with D_2\.pth"):
        resume(tmp_path / "a", config)
    (tmp_path / "a/D_2.pth").write_bytes(whole)
    assert resume(tmp_path / "a", config).step == 2


def test_another_network_under_the_name_of_a_generator_is_no_compressed_one(tmp_path):
    saved_run(tmp_path, tiny_config(), 1)
    (tmp_path / "G_1.pth").write_bytes((tmp_path / "D_1.pth").read_bytes())
    with pytest.raises(CheckpointError, match="holds no voice model, but another network"):
        resume(tmp_path, tiny_config())


@pytest.mark.parametrize("wrong", [
    {"optimizer": {"state": {0: {"step": 1}}}},
    {"optimizer": {"state": {"a": 1}}},
    {"optimizer": {"state": [1]}},
    {"random": {"python": torch.zeros(3)}},
    {"random": 5},
    {"random_of_other_ranks": 5},
    {"batches_done": "many"},
    {"items_per_batch": None},
])  # fmt: skip
def test_a_training_state_of_another_form_is_one_line(tmp_path, wrong):
    train_a_little(step := make_step(tiny_config()))
    save(tmp_path, TrainState(1, 1), step)
    save_weights(tmp_path / "G_1.pth", {**load_weights(tmp_path / "G_1.pth"), **wrong})
    with pytest.raises(CheckpointError, match=r"G_1\.pth: its training state cannot be used \(.*\)\. Delete it"):
        resume(tmp_path, tiny_config())
