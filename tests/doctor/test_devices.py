"""What is said of torch and of cards, for machines that are not here."""

import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
from doctor_workspaces import make_config

from modules.config.io import parse_config
from modules.config.presets import preset_values
from modules.doctor import devices
from modules.doctor.capacity import GIB
from modules.doctor.devices import check_torch, find_cards, runs_on

WHEEL = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.fixture
def card(monkeypatch):
    """A function that makes torch a build for CUDA, on a machine with a card."""

    def put(capability=(8, 6), gigabytes=24.0, built=WHEEL, available=True, version="2.13.0+cu130"):
        properties = SimpleNamespace(name="NVIDIA \x1b[31mRTX", total_memory=int(gigabytes * GIB))
        monkeypatch.setattr(torch, "__version__", version)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.version, "hip", None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: int(available))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(built))

    return put


@pytest.fixture
def no_card(monkeypatch):
    monkeypatch.setattr(devices, "find_cards", lambda: [])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def worst(found) -> list[tuple[str, str]]:
    return [(finding.level, finding.kind) for finding in found if finding.level != "info"]


@pytest.mark.parametrize(
    ("built", "capability", "fits"),
    [
        (["sm_80"], (8, 0), True),
        (["sm_80"], (8, 9), True),  # within the major version, newer
        (["sm_86"], (8, 0), False),  # older
        (["sm_80"], (9, 0), False),  # another major version
        (["sm_80", "compute_80"], (12, 0), True),  # translated
        (["compute_90"], (8, 9), False),  # never backwards
        (["sm_90a"], (9, 0), True),
        (["sm_90a"], (9, 1), False),  # of that card only
        (["sm_100f"], (10, 3), True),
        (["sm_120"], (12, 1), True),
        (WHEEL, (6, 1), False),  # Pascal
        (WHEEL, (7, 5), True),
        (["gfx90a"], (9, 0), False),
    ],
)
def test_code_runs_within_its_major_version_and_translated_code_on_all_that_is_newer(built, capability, fits):
    assert runs_on(built, capability) is fits


def test_a_card_that_the_build_knows_is_a_fact(card):
    card()
    found = list(check_torch(make_config()))
    assert worst(found) == [] and [finding.kind for finding in found] == ["torch", "device"]
    assert "24.0 GB" in found[1].text and "\x1b" not in found[1].text


def test_a_card_that_the_build_has_no_code_for_is_an_error_with_the_pip_line(card):
    card(capability=(6, 1))
    found = list(check_torch(None))
    assert worst(found) == [("error", "architecture")]
    assert "6.1" in found[-1].text and "sm_75" in found[-1].text
    assert (
        "pip install --force-reinstall torch==2.13.0 --index-url https://download.pytorch.org/whl/cu"
        in found[-1].remedy
    )


def test_a_card_whose_memory_the_batch_does_not_fit_is_a_warning(card):
    values = preset_values("small", "vec768l12", 768)
    config = parse_config({**values, "train": {**values["train"], "batch_size": 64}})
    card(gigabytes=4)
    found = list(check_torch(config))
    assert worst(found) == [("warning", "memory")] and "train.batch_size 64" in found[-1].text
    card(gigabytes=16)
    assert worst(check_torch(config)) == []


def test_a_cpu_build_beside_a_card_is_a_warning_with_the_pip_line(no_card, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.13.0+cpu")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(devices, "find_cards", lambda: ["RTX 4090, driver 570.1"])
    for platform, ending in (("linux", "torch==2.13.0"), ("win32", "locally shows")):
        monkeypatch.setattr(sys, "platform", platform)
        found = list(check_torch(None))
        assert worst(found) == [("warning", "build")] and "RTX 4090" in found[-1].text
        assert found[-1].remedy.startswith("python -m pip install") and found[-1].remedy.endswith(ending)


def test_a_driver_that_is_too_old_is_an_error_in_torchs_words(card, monkeypatch):
    card(available=False)
    monkeypatch.setattr(devices, "find_cards", lambda: ["RTX 2080, driver 410.1"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def say() -> bool:
        warnings.warn("The NVIDIA driver on your system is too old (found version 10010). Please update", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", say)
    found = list(check_torch(None))
    assert worst(found) == [("error", "driver")] and "found version 10010" in found[-1].text
    assert "nvidia.com/drivers" in found[-1].remedy


def test_a_card_that_the_environment_hides_is_not_the_drivers_fault(card, monkeypatch):
    card(available=False)
    monkeypatch.setattr(devices, "find_cards", lambda: ["RTX 2080, driver 570.1"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    found = list(check_torch(None))
    assert worst(found) == [("warning", "driver")] and "CUDA_VISIBLE_DEVICES" in found[-1].text


def test_no_gpu_is_a_fact_with_what_it_means(no_card):
    found = list(check_torch(None))
    assert worst(found) == [] and "30 hours" in found[-1].text and "--small" in found[-1].text


def test_a_torch_that_cannot_be_imported_is_an_error_and_no_crash(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (found,) = check_torch(None)
    assert (found.level, found.kind) == ("error", "torch") and "pip install" in found.remedy


def test_a_library_that_the_system_cannot_load_is_named(monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "torch":
                raise OSError("[WinError 126] c10.dll not found")

    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    (found,) = check_torch(None)
    assert found.level == "error" and "c10.dll" in found.text


def test_cards_are_named_by_nvidia_smi_and_a_program_that_hangs_or_fails_names_none(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "PROC", tmp_path)
    monkeypatch.setattr(devices.shutil, "which", lambda name: "nvidia-smi")
    answer = SimpleNamespace(returncode=0, stdout="NVIDIA H200, 570.86.10\nNVIDIA H200, 570.86.10\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    assert find_cards() == ["NVIDIA H200, driver 570.86.10"] * 2
    answer.returncode, answer.stdout = 9, "NVIDIA-SMI has failed, since it could not talk to the driver\n"
    assert find_cards() == []

    def hang(*_, timeout: float, **__):
        raise subprocess.TimeoutExpired("nvidia-smi", timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    assert find_cards() == []
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA RTX A2000\nIRQ:   130\n")
    assert find_cards() == ["NVIDIA RTX A2000"]


@pytest.mark.skipif(os.name == "nt", reason="a shell script")
def test_a_real_program_of_that_name_is_run(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'Made-up card, 1.2'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert find_cards() == ["Made-up card, driver 1.2"]
