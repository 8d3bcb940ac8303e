"""The whole section environment, and pretrained files."""

import builtins
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from damage import flip_a_bit
from doctor_workspaces import CONFIG, bad, by_kind, change_config, make_workspace

from modules.config.io import save_config
from modules.doctor import capacity, devices, downloads
from modules.doctor.environment import check_environment
from modules.pretrained.catalogue import Weights
from modules.pretrained.find import CODE_ROOT
from modules.weights.checkpoint import save_weights


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """An empty workspace on a machine without a GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(devices, "find_cards", lambda: [])
    monkeypatch.setattr(capacity, "memory", lambda: (16 * capacity.GIB, 12 * capacity.GIB))


def test_an_empty_workspace_has_nothing_wrong_and_says_what_comes_first():
    found = check_environment(CONFIG)
    assert bad(found) == []
    (first,) = by_kind(found, "beginning")
    assert "dataset_raw/SPEAKER/" in first.remedy and "python resample.py" in first.remedy
    Path("dataset/44k/alto").mkdir(parents=True)
    Path("dataset/44k/alto/a.wav").touch()
    (first,) = by_kind(check_environment(CONFIG), "beginning")
    assert first.remedy.startswith("python preprocess_flist_config.py")


def test_a_workspace_after_the_recipe_has_nothing_wrong_within_a_second():
    make_workspace(2, with_features=False)
    check_environment(CONFIG)  # torch is loaded now
    start = time.monotonic()
    found = check_environment(CONFIG)
    assert bad(found) == [] and time.monotonic() - start < 3  # 0.3 s, on a machine that does nothing else
    assert {"python", "package", "torch", "device", "memory", "disk", "pretrained"} <= {each.kind for each in found}


def test_no_part_of_the_doctor_loads_torch_when_it_is_imported():
    names = [f"modules.doctor.{path.stem}" for path in (CODE_ROOT / "modules/doctor").glob("*.py")]
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {names}]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=CODE_ROOT).returncode == 0


@pytest.mark.parametrize("kind", ["garbage", "folder", "pipe"])
def test_a_config_that_cannot_be_used_is_left_to_its_own_section(kind):
    CONFIG.parent.mkdir()
    if kind == "pipe" and hasattr(os, "mkfifo"):
        os.mkfifo(CONFIG)
    elif kind == "folder":
        CONFIG.mkdir()
    else:
        CONFIG.write_bytes(b"\xff{")
    found = check_environment(CONFIG)
    assert bad(found) == [] and "not compared" in by_kind(found, "unchecked")[0].text


def test_without_a_package_it_goes_as_far_as_it_can(monkeypatch):
    plain = builtins.__import__

    def refuse(name, *rest):
        if name.startswith("modules.doctor") and "capacity" in (rest[2] or ()):
            raise ModuleNotFoundError("No module named 'pydantic'")
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    found = check_environment(CONFIG)
    assert "pydantic" in by_kind(found, "unchecked")[0].text and by_kind(found, "python")


def test_an_encoder_that_is_not_there_is_named_with_the_download_and_a_way_that_needs_none():
    make_workspace(2, with_features=False)
    change_config("model", speech_encoder="hubertsoft", ssl_dim=256)
    (found,) = by_kind(check_environment(CONFIG), "pretrained")
    assert found.level == "error" and found.text.startswith("pretrain/hubert-soft-0d54a1f4.pt: not found in ")
    assert "python pretrain/download.py hubertsoft" in found.remedy
    assert "--speech_encoder whisper-ppg-base" in found.remedy and "--f0_predictor fcpe" in found.remedy
    assert "--tiny --vol_aug" in found.remedy, "with the flags that the config was made with"


def test_an_encoder_that_nobody_knows_is_named():
    make_workspace(2, with_features=False)
    change_config("model", speech_encoder="hubertsft")
    (found,) = by_kind(check_environment(CONFIG), "pretrained")
    assert found.level == "error" and "Did you mean hubertsoft" in str(found)


@pytest.mark.parametrize("damage", ["truncated", "a bit", "text", "empty", "folder", "pipe", "other"])
def test_an_encoder_file_that_is_damaged_or_another_is_named(damage):
    path = Path("pretrain/base.pt")  # looked for before the file that comes with the toolkit
    path.parent.mkdir()
    import torch

    save_weights(path, {"dims": {}, "model_state_dict": {"encoder.blocks.0.attn.out.bias": torch.ones(512)}})
    weights = (Weights("pretrain/base.pt", "https://example.org", "ed3a0b6b"),)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "a bit":
        flip_a_bit(path)
    elif damage in ("text", "empty"):
        path.write_bytes(b"<html>not found</html>" * (damage == "text"))
    elif damage in ("folder", "pipe"):
        path.unlink()
        path.mkdir() if damage == "folder" or not hasattr(os, "mkfifo") else os.mkfifo(path)
        make_workspace(2, with_features=False)
        assert bad(check_environment(CONFIG)) == [], "nobody looks there: the included file is used"
        return
    (found,) = downloads.check_file("whisper-ppg-base", weights)
    expected = ("warning", "checksum") if damage == "other" else ("error", "pretrained")
    assert (found.level, found.kind) == expected, found
    assert "base.pt" in found.text and "python pretrain/download.py" in found.remedy


def test_a_default_voice_without_a_base_is_told_where_there_is_one(tmp_path):
    from modules.config.io import parse_config
    from modules.config.presets import preset_values

    said = {}
    for preset, encoder, width in (
        ("base", "vec768l12", 768),
        ("base", "hubertsoft", 256),
        ("small", "whisper-ppg-base", 512),
    ):
        config = parse_config(preset_values(preset, encoder, width))
        (found,) = downloads.check_base(config)
        said[preset, encoder] = found
    assert "download.py base-vec768l12" in said["base", "vec768l12"].remedy
    loud = parse_config(preset_values("base", "vec768l12", 768))
    loud.model.vol_embedding = True
    assert "download.py base-vec768l12-vol, then" in next(downloads.check_base(loud)).remedy
    assert said["base", "vec768l12"].level == "warning" and said["base", "hubertsoft"].level == "info"
    assert "pretrain/base-small" in said["small", "whisper-ppg-base"].remedy
    Path("logs/voice").mkdir(parents=True)
    Path("logs/voice/G_100.pth").touch()
    assert list(downloads.check_base(config)) == []


def test_the_vocoder_is_missed_only_where_a_diffusion_model_is_trained():
    from modules.config.diffusion import DiffusionConfig, save_diffusion_config

    make_workspace(2, with_features=False)
    save_diffusion_config(DiffusionConfig(), CONFIG.with_name("diffusion.yaml"))
    assert list(downloads.check_vocoder(CONFIG)) == []
    Path("logs/44k/diffusion").mkdir(parents=True)
    Path("logs/44k/diffusion/model_100.pt").touch()
    (found,) = downloads.check_vocoder(CONFIG)
    assert found.level == "error" and "python pretrain/download.py nsf-hifigan" in str(found)


def test_an_onnx_encoder_without_onnxruntime_says_what_to_install(monkeypatch):
    config = make_workspace(2, with_features=False)
    config.model.speech_encoder, config.model.ssl_dim = "hubertsoft-onnx", 256
    save_config(config, CONFIG)
    Path("pretrain").mkdir()
    Path("pretrain/hubert-soft.onnx").write_bytes(b"\x08\x07 a graph")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = check_environment(CONFIG)
    assert [finding.level for finding in by_kind(found, "package") if "onnxruntime" in finding.text] == ["error"]
