"""The machine and the workspace: whether a training can run here, before any recording is looked at."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from modules.doctor.findings import Finding
from modules.doctor.guard import guarded, listening
from modules.doctor.packages import SECTION, check_packages, check_python
from modules.errors import FAILURES, reason_of

if TYPE_CHECKING:
    from modules.config.schema import Config


def check_environment(config_path: Path) -> list[Finding]:
    """Python, packages, torch and its devices, memory, disk, and the pretrained files that the config needs; without a
    config, what comes first. Without a package it goes as far as it can."""
    found = guarded(SECTION, "Python", check_python) + guarded(SECTION, "packages", check_packages)
    try:
        from modules.doctor import capacity, devices, downloads
    except ImportError as error:
        text = f"torch, memory, disk and pretrained files were not looked at ({reason_of(error)})"
        return [*found, Finding(SECTION, "info", "unchecked", "environment", text)]

    config = _load(config_path)
    torch = guarded(SECTION, "torch", devices.check_torch, config)
    has_gpu = any(finding.kind == "device" and finding.subject != "device" for finding in torch)
    found += torch
    found += guarded(SECTION, "memory", capacity.check_memory, config, has_gpu)
    found += guarded(SECTION, "disk", capacity.check_disk, config)
    found += guarded(SECTION, "workspace", capacity.check_writable)
    if config is None:
        return [*found, *_beginning(config_path)]
    if not any(finding.kind == "torch" and finding.level == "error" for finding in torch):
        found += guarded(SECTION, "speech encoder", downloads.check_encoder_files, config, config_path)
    found += guarded(SECTION, "base model", downloads.check_base, config)
    return found + guarded(SECTION, "vocoder", downloads.check_vocoder, config_path)


def _load(config_path: Path) -> "Config | None":
    """The config; None where there is none, or one that cannot be used, of which the section config says why."""
    from modules.config.io import load_config

    try:
        with listening():
            return load_config(config_path)
    except FAILURES:
        return None


def _beginning(config_path: Path) -> Iterator[Finding]:
    """What comes first, where there is no config yet."""
    if config_path.exists():
        text = "pretrained files and sizes were not compared with it, as it cannot be used"
        yield Finding(SECTION, "info", "unchecked", str(config_path), text)
        return
    has_clips = any(Path("dataset/44k").glob("*/*.wav"))
    remedy = "python preprocess_flist_config.py --speech_encoder whisper-ppg-base --vol_aug --small"
    if not has_clips:
        remedy = f"Put recordings into dataset_raw/SPEAKER/, then: python resample.py, then: {remedy}"
    text = "none yet, so pretrained files and sizes were not compared with one"
    yield Finding(SECTION, "info", "beginning", str(config_path), text, remedy)
