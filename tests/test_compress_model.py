"""Compressed voices sound as the ones they were made from, keep their card and config, and cost nobody a file."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from damage import flip_a_bit
from safetensors import safe_open
from tiny_voices import tiny_config

import compress_model
from models import build_synthesizer, load_synthesizer
from modules.config.io import load_config, save_config, to_plain
from modules.config.schema import Config
from modules.errors import CheckpointError, ConfigError, UsageError
from modules.training.distributed import Group
from modules.training.resume import load_start
from modules.training.step import VitsStep
from modules.weights.checkpoint import load_weights, save_weights
from vdecoder.discriminators import MultiPeriodDiscriminator

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
CARD = {"name": "альт", "speakers": ["alto", "bass"], "hours": 0.5, "f0_histograms": {"alto": {"counts": [1, 2]}}}


@pytest.fixture
def config() -> Config:
    return tiny_config({"flow_share_parameter": True, "n_flow_layer": 2})


@pytest.fixture
def trained(tmp_path, config) -> Path:
    """A whole checkpoint of ours, with optimizer, averages and a card."""
    network = build_synthesizer(config)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    sum(parameter.sum() for parameter in network.parameters()).backward()
    optimizer.step()
    other = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    content = {
        "model": network.state_dict(),
        "trained_model": other,
        "n_averaged": 3,
        "iteration": 7,
        "optimizer": optimizer.state_dict(),
        "learning_rate": 1e-3,
        "step": 800,
        "config": to_plain(config),
        "card": CARD,
        "random": {"torch": torch.get_rng_state()},
    }
    path = tmp_path / "logs/G_800.pth"
    path.parent.mkdir()
    save_weights(path, content)
    return path


def convert(path: Path, config: Config) -> torch.Tensor:
    voice = load_synthesizer(path, config, CPU)
    generator = torch.Generator().manual_seed(1)
    units, ones = torch.randn(6, 12, generator=generator), torch.ones(12)
    return voice.infer(units, 220 * ones, ones, 1, 0.1 * ones).wav


def compress(path, *flags) -> int:
    return compress_model.main(["-i", str(path), *map(str, flags)])


def test_the_layout_is_so_vits_svcs_and_what_is_said_of_the_voice_stays(trained, config, capsys):
    assert compress(trained) == 0
    output = trained.with_name("G_800_release.pth")
    found, before = load_weights(output), load_weights(trained)
    assert list(found)[:4] == ["model", "iteration", "optimizer", "learning_rate"]
    assert (found["iteration"], found["learning_rate"], found["optimizer"]["state"]) == (0, 0.0001, {})
    group = found["optimizer"]["param_groups"][0]
    assert group["lr"] == config.train.learning_rate and list(group["betas"]) == config.train.betas
    assert group["params"] == list(range(len(list(build_synthesizer(config).parameters()))))
    assert found["card"] == CARD and found["config"] == before["config"] and "random" not in found
    assert not [name for name in found["model"] if "enc_q" in name]
    assert output.stat().st_size < trained.stat().st_size / 3
    printed = capsys.readouterr().out
    assert "MB" in printed and printed.splitlines()[-1].startswith("Next: python inference_main.py -m")


def test_a_small_voice_sings_the_same(trained, config):
    """The averages stay, not the weights that are trained; the clone in .safetensors is exact, 16 bits are near."""
    wanted = convert(trained, config)
    compress(trained)
    compress(trained, "-o", trained.with_name("a.safetensors"))
    (trained.parent / "made by us").touch()
    modes = {path.stat().st_mode for path in (trained.with_name("a.safetensors"), trained.parent / "made by us")}
    assert len(modes) == 1, "others may read it as they may any file of ours"
    assert torch.equal(convert(trained.with_name("G_800_release.pth"), config), wanted)
    assert torch.equal(convert(trained.with_name("a.safetensors"), config), wanted)
    compress(trained, "-hf")
    half = convert(trained.with_name("G_800_release_half.pth"), config)
    assert (half - wanted).abs().max() < 1e-2 * wanted.abs().max()


def test_safetensors_hold_the_card_and_the_config_as_text(trained, config):
    output = trained.with_name("voice.safetensors")
    compress(trained, "-hf", "-o", output)
    with safe_open(output, "pt") as file:
        metadata, dtypes = file.metadata(), {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert json.loads(metadata["card"]) == CARD and json.loads(metadata["config"]) == to_plain(config)
    assert dtypes == {"F16"}
    again = trained.with_name("again.pth")
    compress(output, "-o", again)
    assert load_weights(again)["card"] == CARD


def test_a_published_voice_finds_its_config_beside_it_or_is_told_it(trained, config, tmp_path, monkeypatch):
    bare = tmp_path / "published/G_1.pth"
    bare.parent.mkdir()
    save_weights(bare, {"model": load_weights(trained)["model"]})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"published.config\.json: no such file, .* Give -c"):
        compress(bare)
    save_config(config, tmp_path / "other.json")
    compress(bare, "-c", "other.json")
    save_config(config, bare.with_name("config.json"))
    compress(bare, "--overwrite")
    assert convert(bare.with_name("G_1_release.pth"), config).isfinite().all()


def test_a_config_that_does_not_fit_is_refused_with_tensor_shapes_and_key(trained, tmp_path):
    save_config(tiny_config({"n_speakers": 3}), tmp_path / "c.json")
    message = r"does not fit .*c\.json: emb_g\.weight is \[2, 4\] but \[3, 4\] is expected.*model\.n_speakers"
    with pytest.raises(CheckpointError, match=message):
        compress(trained, "-c", tmp_path / "c.json")
    assert not trained.with_name("G_800_release.pth").exists()


def test_int8_is_a_fifth_of_the_size_and_sings_nearly_the_same(trained, config):
    compress(trained)
    compress(trained, "--int8")
    whole, packed = (trained.with_name(f"G_800_release{suffix}.pth") for suffix in ("", "_int8"))
    stored = torch.load(packed, weights_only=True)["model"]
    assert {value.dtype for name, value in stored.items() if name.endswith(".int8")} == {torch.uint8}
    wanted, found = (load_weights(path)["model"] for path in (whole, packed))
    assert wanted.keys() == found.keys()
    for name, tensor in wanted.items():
        largest = tensor.abs().flatten(1).amax(1).max() if tensor.dim() > 1 else tensor.abs().max()
        assert (found[name].float() - tensor).abs().max() <= float(largest) / 250, name
    wanted, found = convert(whole, config), convert(packed, config)
    assert 0 < (wanted - found).abs().max() < 0.05 * wanted.abs().max()


@pytest.mark.parametrize("flags", [(), ("-hf",), ("--int8",)])
def test_a_base_holds_all_that_training_needs(trained, config, tmp_path, capsys, flags):
    discriminators = MultiPeriodDiscriminator(channels=config.model.discriminator_channels)
    save_weights(trained.with_name("D_800.pth"), {"model": discriminators.state_dict(), "optimizer": {"state": {}}})
    folder = tmp_path / "bases/альт"
    assert compress(trained, "--base", folder, *flags) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["D_0.pth", "G_0.pth", "config.json"]
    assert f"--base {folder.as_posix()}\n" in capsys.readouterr().out
    assert (
        load_config(folder / "config.json").model == config.model and load_weights(folder / "G_0.pth")["card"] == CARD
    )
    step = VitsStep(build_synthesizer(config), copy.deepcopy(discriminators), config, CPU)
    state, path = load_start(tmp_path / "new", step, Group(), folder)
    assert (state.step, state.has_base, path) == (0, True, folder / "G_0.pth")
    wanted = load_weights(trained)["model"]["enc_q.pre.weight"]
    torch.testing.assert_close(step.net_g.enc_q.pre.weight.detach(), wanted, atol=2e-3, rtol=1e-2)
    torch.testing.assert_close(
        step.net_d.state_dict()["discriminators.1.convs.1.weight_v"],
        discriminators.state_dict()["discriminators.1.convs.1.weight_v"],
        atol=2e-3,
        rtol=1e-2,
    )
    with pytest.raises(UsageError, match="exists"):
        compress(trained, "--base", folder, *flags)


def test_a_base_without_discriminators_is_refused(trained, tmp_path):
    with pytest.raises(UsageError, match=r"D_800\.pth: no such file"):
        compress(trained, "--base", tmp_path / "base")
    save_weights(trained.with_name("D_800.pth"), {"model": {"x": torch.zeros(1)}})
    with pytest.raises(CheckpointError, match=r"D_800\.pth: holds no discriminators"):
        compress(trained, "--base", tmp_path / "base")
    with pytest.raises(UsageError, match=r"voice\.safetensors: expected a G_STEP\.pth"):
        compress("voice.safetensors", "--base", tmp_path / "base")
    with pytest.raises(UsageError, match="leave -o out"):
        compress(trained, "--base", tmp_path / "base", "-o", tmp_path / "x.pth")
    assert not (tmp_path / "base").exists()


def test_what_is_compressed_already_gets_a_note(trained, capsys):
    compress(trained)
    compress(trained.with_name("G_800_release.pth"), "-hf")
    assert "is compressed already" in capsys.readouterr().err
    assert trained.with_name("G_800_release_release_half.pth").exists()


@pytest.mark.parametrize(("names", "message"), [
    (["discriminators.0.convs.0.bias"], "discriminator. It serves only to train on. Give the G_"),
    (["enc_p.emb_phone.weight"], "an RVC voice model, another kind of network"),
    (["decoder.denoise_fn.input_projection.weight"], "diffusion model. Give it with -dm"),
])  # fmt: skip
def test_other_files_are_refused_by_name(tmp_path, names, message):
    save_weights(tmp_path / "x.pth", {"model": {name: torch.zeros(1) for name in names}})
    with pytest.raises(CheckpointError, match=message):
        compress(tmp_path / "x.pth")


def test_numbers_beyond_16_bits_are_named(trained):
    content = load_weights(trained)
    content["model"]["dec.conv_pre.bias"] = torch.full_like(content["model"]["dec.conv_pre.bias"], 1e6)
    save_weights(trained.with_name("loud.pth"), content)
    with pytest.raises(CheckpointError, match=r"dec\.conv_pre\.bias has numbers up to 1e\+06.* Leave -hf"):
        compress(trained.with_name("loud.pth"), "-hf")


def test_no_input_is_overwritten_and_others_only_on_demand(trained):
    before = trained.read_bytes()
    with pytest.raises(UsageError, match="inputs are never overwritten"):
        compress(trained, "-o", trained, "--overwrite")
    output = trained.with_name("G_800_release.pth")
    output.write_text("precious")
    with pytest.raises(UsageError, match="already exists; use another name, or add --overwrite"):
        compress(trained)
    assert output.read_text() == "precious" and trained.read_bytes() == before
    compress(trained, "--overwrite")
    assert "model" in load_weights(output)
    with pytest.raises(UsageError, match=r"ends in \.pth or \.pt or \.safetensors"):
        compress(trained, "-o", trained.with_name("x.zip"))


def test_a_damaged_model_is_refused_before_anything_is_written(trained):
    flip_a_bit(trained)
    with pytest.raises(CheckpointError, match="damaged"):
        compress(trained)
    assert [path.name for path in trained.parent.iterdir()] == ["G_800.pth"]


def test_wrong_use_ends_with_code_two_and_one_line(tmp_path):
    command = [sys.executable, str(ROOT / "compress_model.py"), "-i", "a.pth"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 2 and done.stderr.splitlines() == ["error: -i/--input a.pth: no such file or folder"]


def test_what_is_no_model_is_named_not_the_output_that_it_would_give(tmp_path):
    (tmp_path / "song.wav").write_bytes(b"junk")
    for wrong in (tmp_path, tmp_path / "song.wav"):
        with pytest.raises(UsageError, match=rf"-i .*{wrong.name}: expected a model, whose name ends in \.pth"):
            compress(wrong)
    assert [path.name for path in tmp_path.iterdir()] == ["song.wav"]
