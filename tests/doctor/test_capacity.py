"""Memory and disk: estimates against what is really written and built, and what is said when they do not suffice."""

import ctypes
import io
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from doctor_workspaces import CONFIG, DATA, RATE, add_features, bad, make_workspace, write_clip

from models import build_synthesizer
from modules.config.io import load_config, parse_config
from modules.config.presets import PRESETS, preset_values
from modules.data.clips import path_of
from modules.doctor import capacity
from modules.doctor.capacity import (
    GIB,
    check_disk,
    check_memory,
    check_writable,
    checkpoint_bytes,
    feature_bytes,
    item_bytes,
    memory,
    network_parameters,
    training_bytes,
)
from vdecoder.discriminators import MultiPeriodDiscriminator


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_workspace(2, with_features=False)


def of_preset(name: str, **train: object):
    values = preset_values(name, "vec768l12", 768)
    values["train"] = {**values.get("train", {}), **train}
    return parse_config(values)


@pytest.mark.parametrize("preset", PRESETS)
def test_parameters_are_those_of_the_networks_to_a_sixth(preset):
    config = of_preset(preset)
    net_g, net_d = build_synthesizer(config), MultiPeriodDiscriminator(channels=config.model.discriminator_channels)
    for net, estimate in zip((net_g, net_d), network_parameters(config)):
        count = sum(parameter.numel() for parameter in net.parameters())
        assert estimate == pytest.approx(count, rel=0.17)


def test_a_checkpoint_has_weights_and_two_moments_and_an_average_where_it_is_kept():
    config = of_preset("base")
    assert checkpoint_bytes(config) == pytest.approx(1.19e9, rel=0.03)  # G 0.63 GB, D 0.56 GB
    assert checkpoint_bytes(of_preset("base", ema_decay=0.999)) - checkpoint_bytes(config) == pytest.approx(
        0.21e9, rel=0.03
    )
    buffer, parameter = io.BytesIO(), torch.nn.Parameter(torch.zeros(100_000))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(100_000)
    optimizer.step()
    torch.save({"model": parameter.data, "optimizer": optimizer.state_dict()}, buffer)
    assert len(buffer.getvalue()) == pytest.approx(12 * 100_000, rel=0.02)


# Peak of a process that made a training step on a CPU in fp32: see `capacity`.
@pytest.mark.parametrize(
    ("preset", "clips", "gigabytes"),
    [
        ("base", 1, 3.01),
        ("base", 3, 4.64),
        ("base", 6, 7.06),
        ("tiny", 3, 3.88),
        ("small", 4, 1.04),
        ("micro", 4, 0.87),
    ],
)
def test_the_memory_of_a_step_is_what_was_measured_to_a_third_of_a_gigabyte(preset, clips, gigabytes):
    assert training_bytes(of_preset(preset, batch_size=clips)) / GIB == pytest.approx(gigabytes, abs=0.34)
    half = training_bytes(of_preset(preset, batch_size=clips, fp16_run=True)) / GIB
    assert half < training_bytes(of_preset(preset, batch_size=clips)) / GIB


def test_features_on_disk_are_as_large_as_said(workspace):
    clip = write_clip(DATA / "alto/long.wav", 300.0, 4.0)
    add_features(clip, workspace, 300.0)
    names = ["units", "f0", "spec"] + ["volume"] * workspace.model.vol_embedding
    written = sum(path_of(clip, name).stat().st_size for name in names)
    assert written == pytest.approx(4 * feature_bytes(workspace), rel=0.03)
    assert item_bytes(workspace) > feature_bytes(workspace) * 1.2


def test_this_machine_has_memory():
    total, available = memory()
    assert total > GIB / 2 and (available is None or 0 < available <= total)


def test_a_container_has_no_more_than_its_limit(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(capacity, "_GROUP_LIMIT", limit)
    for text, wanted in ((f"{GIB}\n", GIB), ("max\n", memory()[0])):
        limit.write_text(text)
        assert memory()[0] == wanted


def test_windows_says_how_much_memory_there_is(monkeypatch):
    def fill(reference) -> int:
        assert reference._obj.length == 64  # bytes of MEMORYSTATUSEX
        reference._obj.total, reference._obj.available = 16 * GIB, 3 * GIB
        return 1

    kernel = SimpleNamespace(GlobalMemoryStatusEx=fill)
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    assert capacity._windows_memory() == (16 * GIB, 3 * GIB)


def test_too_little_memory_for_a_training_on_the_cpu_is_a_warning_and_unknown_memory_says_nothing(monkeypatch):
    config = of_preset("base", batch_size=6)
    monkeypatch.setattr(capacity, "memory", lambda: (8 * GIB, 6 * GIB))
    assert [finding.level for finding in check_memory(config, has_gpu=False)] == ["info", "warning"]
    assert [finding.level for finding in check_memory(config, has_gpu=True)] == ["info"]
    assert [finding.level for finding in check_memory(None, has_gpu=False)] == ["info"]
    monkeypatch.setattr(capacity, "memory", lambda: (8 * GIB, 1 * GIB))
    assert "Close other programs" in list(check_memory(config, has_gpu=True))[-1].remedy
    monkeypatch.setattr(capacity, "memory", lambda: (None, None))
    assert list(check_memory(config, has_gpu=False)) == []


def free_space(monkeypatch, size: float) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**13, 0, int(size)))


def test_disk_is_compared_with_checkpoints_and_the_features_that_are_still_to_be_made(workspace, monkeypatch):
    pairs = 4 * checkpoint_bytes(workspace)
    seconds = sum(path.stat().st_size for path in DATA.glob("*/*.wav")) / 2 / RATE
    features = seconds * feature_bytes(workspace)
    for size, level in ((0.9, "error"), (1.5, "warning"), (3.0, "info")):
        free_space(monkeypatch, size * (pairs + features))
        (found,) = check_disk(workspace)
        assert found.level == level and "3 checkpoints" in found.text and "MB a minute" in found.text
        assert bool(found.remedy) is (level != "info")


def test_checkpoints_that_are_there_are_replaced_and_need_no_room_again(workspace, monkeypatch):
    pair = int(checkpoint_bytes(workspace))
    Path("logs/44k").mkdir(parents=True)
    free_space(monkeypatch, 3 * pair)
    assert next(iter(check_disk(workspace))).level == "error"
    for step in (1, 2, 3):
        Path(f"logs/44k/G_{step}.pth").write_bytes(bytes(pair))
    assert next(iter(check_disk(workspace))).level in ("warning", "info")


def test_a_workspace_that_refuses_is_an_error_whoever_runs_this(workspace, monkeypatch):
    assert list(check_writable()) == []
    plain = tempfile.TemporaryFile

    def refuse(*arguments, dir=None, **named):
        if Path(dir).name == "dataset":
            raise PermissionError(13, "Permission denied", str(dir))
        return plain(*arguments, dir=dir, **named)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    (found,) = check_writable()
    assert found.level == "error" and found.subject.endswith("dataset") and "permission denied" in found.text


@pytest.mark.parametrize("kind", ["file", "broken link"])
def test_what_is_no_folder_in_the_place_of_one_is_an_error(workspace, kind):
    Path("logs").symlink_to("nowhere") if kind == "broken link" else Path("logs").write_text("not a folder")
    (DATA / "alto/broken.wav").symlink_to("nowhere.wav")
    (found,) = check_writable()
    assert found.subject == "logs" and bad([found])
    assert load_config(CONFIG) and list(check_disk(workspace)), "and the disk is looked at all the same"
