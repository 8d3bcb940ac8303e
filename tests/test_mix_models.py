"""Blending models: the arithmetic of so-vits-svc's static mix, and no file of the user lost."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from damage import Payload
from safetensors.torch import save_file
from tiny_voices import tiny_config

import mix_models
from models import build_synthesizer, load_synthesizer
from modules.config.io import to_plain
from modules.errors import CheckpointError, UsageError
from modules.weights.checkpoint import load_weights

ROOT = Path(__file__).resolve().parent.parent


def write(path, seed, extra=None, **tensors):
    """A small checkpoint with seeded weights, a half-precision tensor and a counter; `tensors` replace or add some."""
    generator = torch.Generator().manual_seed(seed)
    model = {
        "emb_g.weight": torch.randn(2, 4, generator=generator),
        "half": torch.randn(3, generator=generator).half(),
        "count": torch.tensor(seed),
        **tensors,
    }
    model = {name: tensor for name, tensor in model.items() if tensor is not None}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(2, 4)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    content = {"model": model, "iteration": seed, "optimizer": optimizer, "learning_rate": 0.1, **(extra or {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


@pytest.fixture
def pair(tmp_path):
    return [write(tmp_path / "a/G_1.pth", 1), write(tmp_path / "b/G_2.pth", 2)]


def mix(inputs, weights, output, *flags):
    words = ["-i", *map(str, inputs), "-w", *map(str, weights), "-o", str(output), *flags]
    return mix_models.main(words)


def test_linear_shares_are_the_weights_as_they_stand(tmp_path, pair):
    assert mix(pair, [60, 40], tmp_path / "mixed.pth", "-m", "linear") == 0
    a, b = (load_weights(path)["model"] for path in pair)
    found = load_weights(tmp_path / "mixed.pth")["model"]
    torch.testing.assert_close(found["emb_g.weight"], 0.6 * a["emb_g.weight"] + 0.4 * b["emb_g.weight"])
    half = (0.6 * a["half"].float() + 0.4 * b["half"].float()).half()  # summed in fp32, rounded once
    assert found["half"].dtype == torch.float16
    torch.testing.assert_close(found["half"], half, rtol=1e-3, atol=1e-4)
    assert found["count"] == 1, "what is not a floating tensor is the first model's"


def test_convex_shares_are_the_softmax_of_the_weights(tmp_path, pair):
    third = write(tmp_path / "c/G_3.pth", 3)
    mix([*pair, third], [60, 40, -20], tmp_path / "mixed.pth", "-m", "convex")
    shares = torch.softmax(torch.tensor([0.6, 0.4, -0.2]), 0)
    models = [load_weights(path)["model"]["emb_g.weight"] for path in [*pair, third]]
    wanted = sum(share * model for share, model in zip(shares, models))
    torch.testing.assert_close(load_weights(tmp_path / "mixed.pth")["model"]["emb_g.weight"], wanted)


def test_huge_weights_do_not_overflow_the_softmax():
    assert mix_models.shares_of([1e9, 0], 2, "convex") == [1, 0]
    assert mix_models.shares_of([7, 7], 2, "convex") == [0.5, 0.5]
    first, second = mix_models.shares_of([60, 40], 2, "convex")
    assert math.isclose(first, math.exp(0.6) / (math.exp(0.6) + math.exp(0.4))) and math.isclose(first + second, 1)


def test_the_whole_weight_on_the_first_gives_the_first_model(tmp_path, pair):
    mix(pair, [100, 0], tmp_path / "mixed.pth", "-m", "linear")
    first, found = load_weights(pair[0])["model"], load_weights(tmp_path / "mixed.pth")["model"]
    assert first.keys() == found.keys() and all(torch.equal(first[name], found[name]) for name in first)


def test_the_rest_of_the_file_is_the_first_ones_with_a_fresh_optimizer(tmp_path, pair):
    mix(pair, [50, 50], tmp_path / "mixed.pth")
    found = load_weights(tmp_path / "mixed.pth")
    assert found["iteration"] == 1 and found["learning_rate"] == 0.1
    assert found["optimizer"] == {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]}


def test_a_file_of_weights_alone_gets_the_layout_of_a_checkpoint(tmp_path, pair):
    torch.save({"model": load_weights(pair[0])["model"]}, tmp_path / "bare.pth")
    mix([tmp_path / "bare.pth", pair[1]], [50, 50], tmp_path / "mixed.pth")
    assert list(load_weights(tmp_path / "mixed.pth")) == ["model", "iteration", "optimizer", "learning_rate"]


def test_a_blend_of_voices_sings(tmp_path):
    config, paths = tiny_config(), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        content = {"model": build_synthesizer(config).state_dict(), "config": to_plain(config)}
        paths.append(tmp_path / f"G_{seed}.pth")
        torch.save(content, paths[-1])
    mix(paths, [50, 50], tmp_path / "mixed.pth")
    voice = load_synthesizer(tmp_path / "mixed.pth", config, torch.device("cpu"))
    ones = torch.ones(8)
    wav = voice.infer(torch.zeros(6, 8), 220 * ones, ones, 1, 0.1 * ones).wav
    assert wav.shape == (8 * 512,) and torch.isfinite(wav).all()


def test_the_next_step_is_told_with_config_and_speaker(tmp_path, capsys):
    config = {"spk": {"голос": 0}}
    paths = [write(tmp_path / f"{name}/G_1.pth", 1, {"config": config}) for name in "ab"]
    (tmp_path / "a/config.json").write_text("{}")
    mix(paths, [50, 50], tmp_path / "mixed.pth")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("Next: python inference_main.py") and "a/config.json" in last and last.endswith("-s голос")


@pytest.mark.parametrize(("n_models", "weights", "message"), [
    (1, [100], "-i/--input names 1 model; a blend needs at least two"), (2, [100], "1 values for 2 models"),
    (2, [1, 2, 3], "3 values for 2 models"), (2, ["nan", 1], "nan is not a finite number"),
    (2, [1, "inf"], "inf is not a finite number"),
])  # fmt: skip
def test_wrong_counts_and_weights_are_refused(tmp_path, pair, n_models, weights, message):
    with pytest.raises(UsageError, match=message):
        mix(pair[:n_models], weights, tmp_path / "mixed.pth")
    assert not (tmp_path / "mixed.pth").exists()


def test_tensors_that_differ_are_named_with_both_shapes(tmp_path, pair):
    shapes = {f"layer.{index}": torch.zeros(index + 1) for index in range(5)}
    first = write(tmp_path / "c.pth", 1, **shapes)
    other = write(tmp_path / "d.pth", 1, **{name: torch.zeros(9, 9) for name in shapes})
    with pytest.raises(CheckpointError) as caught:
        mix([first, other], [50, 50], tmp_path / "mixed.pth")
    text = str(caught.value)
    assert text.startswith(f"{other}: does not fit the first model, {first}: ") and "Blend models of one" in text
    assert "layer.1 is [9, 9] but [2] is expected" in text and "and 1 more" in text and "layer.4" not in text
    with pytest.raises(CheckpointError, match=r"G_1\.pth: does not fit .*c\.pth: layer\.0 is missing"):
        mix([first, pair[0]], [50, 50], tmp_path / "mixed.pth")
    with pytest.raises(CheckpointError, match=r"c\.pth: does not fit .*G_1\.pth: layer\.0 has no place"):
        mix([pair[0], first], [50, 50], tmp_path / "mixed.pth")


@pytest.mark.parametrize(("change", "message"), [
    ({"spk": {"alto": 1, "bass": 0}}, r"spk is \{'alto': 1, 'bass': 0\}, but \{'alto': 0, 'bass': 1\} in "),
    ({"model": {"speech_encoder": "whisper-ppg"}}, "speech_encoder is whisper-ppg, but fake in"),
    ({"data": {"sampling_rate": 32000}}, "sampling_rate is 32000, but 44100 in"),
])  # fmt: skip
def test_models_of_other_speakers_or_encoders_are_refused(tmp_path, change, message):
    plain = to_plain(tiny_config())
    other = {**plain, **{key: change[key] if key == "spk" else {**plain[key], **change[key]} for key in change}}
    paths = [write(tmp_path / f"{i}.pth", i, {"config": config}) for i, config in enumerate([plain, other])]
    with pytest.raises(CheckpointError, match=message):
        mix(paths, [50, 50], tmp_path / "mixed.pth")


@pytest.mark.parametrize("way", ["name", "detour", "symlink", "hard link"])
def test_an_input_is_never_overwritten(tmp_path, pair, way):
    output = {"name": pair[1], "detour": tmp_path / "a/../b/G_2.pth"}.get(way, tmp_path / "mixed.pth")
    if way == "symlink":
        output.symlink_to(pair[1])
    elif way == "hard link":
        os.link(pair[1], output)
    before = pair[1].read_bytes()
    with pytest.raises(UsageError, match="inputs are never overwritten"):
        mix(pair, [50, 50], output, "--overwrite")
    assert pair[1].read_bytes() == before


def test_another_file_is_overwritten_only_on_demand(tmp_path, pair):
    output = tmp_path / "mixed.pth"
    output.write_text("precious")
    with pytest.raises(UsageError, match="already exists; use another name, or add --overwrite"):
        mix(pair, [50, 50], output)
    assert output.read_text() == "precious"
    mix(pair, [50, 50], output, "--overwrite")
    assert "model" in load_weights(output)


def test_an_output_that_is_no_model_name_is_refused(tmp_path, pair):
    (tmp_path / "folder.pth").mkdir()
    for name, message in {"mixed.safetensors": "ends in .pth or .pt", "folder.pth": "is a folder"}.items():
        with pytest.raises(UsageError, match=message):
            mix(pair, [50, 50], tmp_path / name, "--overwrite")


def test_a_malicious_model_is_refused_and_does_not_run(tmp_path, pair):
    evil = write(tmp_path / "evil.pth", 1, {"config": Payload(os.mkdir, str(tmp_path / "ran"))})
    for inputs in ([evil, pair[0]], [pair[0], evil]):
        with pytest.raises(CheckpointError, match=r"evil\.pth: refused"):
            mix(inputs, [50, 50], tmp_path / "mixed.pth")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "mixed.pth").exists()


def test_files_without_a_model_and_sums_that_overflow_are_refused(tmp_path, pair):
    torch.save({"weights": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth: not a voice model"):
        mix([pair[0], tmp_path / "x.pth"], [50, 50], tmp_path / "mixed.pth")
    with pytest.raises(CheckpointError, match="the blend of half is not finite"):
        mix(pair, [1e9, 1e9], tmp_path / "mixed.pth", "-m", "linear")


def test_wrong_use_ends_with_code_two_and_one_line(tmp_path):
    command = [sys.executable, str(ROOT / "mix_models.py"), "-i", "a.pth", "b.pth", "-w", "50", "50"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 2 and done.stderr.splitlines() == [
        "error: -i/--input a.pth: no such file or folder; -i/--input b.pth: no such file or folder"
    ]


def test_other_models_are_refused_by_name(tmp_path, pair):
    torch.save({"model": {"discriminators.0.convs.0.bias": torch.zeros(1)}}, tmp_path / "D_1.pth")
    torch.save({"model": {"enc_p.emb_phone.weight": torch.zeros(1)}}, tmp_path / "rvc.pth")
    for name, message in {"D_1.pth": "discriminator", "rvc.pth": "an RVC voice model, another kind"}.items():
        with pytest.raises(CheckpointError, match=f"{name}: not a voice model of so-vits-svc 4: it is .*{message}"):
            mix([tmp_path / name, tmp_path / name], [50, 50], tmp_path / "mixed.pth")


def test_a_voice_in_safetensors_is_blended_as_well(tmp_path, pair):
    model = load_weights(pair[1])["model"]
    save_file(model, tmp_path / "b.safetensors", {"config": "{}"})
    mix([pair[0], tmp_path / "b.safetensors"], [50, 50], tmp_path / "mixed.pth", "-m", "linear")
    wanted = (load_weights(pair[0])["model"]["emb_g.weight"] + model["emb_g.weight"]) / 2
    torch.testing.assert_close(load_weights(tmp_path / "mixed.pth")["model"]["emb_g.weight"], wanted)


def test_linear_weights_that_do_not_sum_to_100_are_told(tmp_path, pair, capsys):
    mix(pair, [60, 60], tmp_path / "mixed.pth", "-m", "linear")
    assert "sum to 120, not 100" in capsys.readouterr().err
