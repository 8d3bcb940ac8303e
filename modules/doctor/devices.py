"""Which devices torch can train on here, and why it can't use a card that is there."""

import csv
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modules.config.schema import Config
from modules.doctor.capacity import GIB, training_bytes
from modules.doctor.findings import Finding
from modules.doctor.packages import INSTALL, SECTION
from modules.errors import reason_of
from modules.text import listing, printable

PROC = Path("/proc/driver/nvidia/gpus")
_SECONDS = 10  # that nvidia-smi may take; with a driver that hangs it never ends
_WHEELS = "https://download.pytorch.org/whl/cuNNN, with the cuNNN that https://pytorch.org/get-started/locally shows"
_DRIVER = "Install the newest driver from https://www.nvidia.com/drivers, and start the machine again"


def check_torch(config: Config | None) -> Iterator[Finding]:
    """Whether torch can be imported, on what it computes, and whether the config's training fits there."""
    try:
        import torch
    except ImportError as error:
        remedy = f"{INSTALL} --force-reinstall torch"
        yield Finding(SECTION, "error", "torch", "torch", f"cannot be imported ({reason_of(error)})", remedy)
        return
    except OSError as error:  # a library of its own that the system cannot load
        remedy = f"{INSTALL} --force-reinstall torch"
        if os.name == "nt":
            remedy = f"Install https://aka.ms/vs/17/release/vc_redist.x64.exe, then {remedy}"
        text = f"cannot be imported ({printable(reason_of(error), 300)})"
        yield Finding(SECTION, "error", "torch", "torch", text, remedy)
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "ROCm" if torch.version.hip else "CPU"
    yield Finding(SECTION, "info", "torch", "torch", f"{torch.__version__}, a build for {build}")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        is_available = torch.cuda.is_available()
    if is_available:
        for index in range(torch.cuda.device_count()):
            yield from _check_card(torch, index, config)
    elif cards := find_cards():
        reason = str(said[0].message).split(". ")[0] if said else ""
        yield from _check_unused_cards(torch, cards, reason)
    elif torch.backends.mps.is_available():
        text = "Apple's GPU is used (MPS); training there is in fp32 or bf16"
        yield Finding(SECTION, "info", "device", "device", text)
    else:
        yield Finding(
            SECTION,
            "info",
            "device",
            "device",
            "no GPU: training runs on the CPU. On two cores a step of the default model takes about 11 s (10000 steps: "
            "30 hours), of --small about 1 s, and that one starts from pretrain/base-small",
        )


def _check_card(torch: Any, index: int, config: Config | None) -> Iterator[Finding]:
    found = torch.cuda.get_device_properties(index)
    name, total = printable(found.name), found.total_memory
    yield Finding(SECTION, "info", "device", f"cuda:{index}", f"{name}, {total / GIB:.1f} GB of memory")
    if torch.version.cuda:
        built, ours = torch.cuda.get_arch_list(), torch.cuda.get_device_capability(index)
        if built and not runs_on(built, ours):
            text = f"{name} has compute capability {ours[0]}.{ours[1]}, and this torch is built for {listing(built)} "
            text += "(sm_XY runs on X.Y and newer X.*, compute_XY on all that is newer): no network can run on it"
            line = f"{INSTALL} --force-reinstall torch=={torch.__version__.partition('+')[0]} --index-url {_WHEELS}"
            remedy = f"Use a build for this card: {line}; or another card (CUDA_VISIBLE_DEVICES), or -d cpu"
            yield Finding(SECTION, "error", "architecture", f"cuda:{index}", text, remedy)
    if config is None:
        return
    needed = training_bytes(config)
    if needed > total:
        text = f"{name} has {total / GIB:.1f} GB; a step with train.batch_size {config.train.batch_size} needs about "
        text += f"{needed / GIB:.1f} GB (networks, gradients and moments 16 bytes a parameter, and what grows with the "
        remedy = "Lower train.batch_size in the config, or train with --auto_batch or --precision bf16"
        yield Finding(SECTION, "warning", "memory", f"cuda:{index}", text + "batch)", remedy)


def runs_on(built: list[str], capability: tuple[int, int]) -> bool:
    """Whether code for the architectures `built` ("sm_86", "compute_90") runs on a card of a compute capability.

    Machine code (sm) runs within its major version, on the same minor or a newer one; what ends in "a" on exactly its
    own; intermediate code (compute) is translated on any newer card.

    Source: NVIDIA, "CUDA C++ Programming Guide", sections "Binary Compatibility" and "PTX Compatibility".
    """
    for text in built:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", text)
        if match is None:
            continue
        wanted = int(match[2]), int(match[3])
        if match[4] == "a":
            fits = capability == wanted
        elif match[1] == "sm" or match[4] == "f":
            fits = capability[0] == wanted[0] and capability[1] >= wanted[1]
        else:
            fits = capability >= wanted
        if fits:
            return True
    return False


def _check_unused_cards(torch: Any, cards: list[str], reason: str) -> Iterator[Finding]:
    """Why torch has no CUDA though a card is there."""
    shown, hidden = listing(cards, 3), os.environ.get("CUDA_VISIBLE_DEVICES")
    version = torch.__version__.partition("+")[0]
    if not torch.version.cuda:
        line = f"{INSTALL} --force-reinstall torch=={version}"
        line += "" if sys.platform == "linux" else f" --index-url {_WHEELS}"
        text = f"{torch.__version__} cannot use the card that is here ({shown}): it is not a build for CUDA"
        yield Finding(SECTION, "warning", "build", "torch", text, line)
    elif hidden is not None and hidden.strip() in ("", "-1"):
        text = f"the card that is here ({shown}) is hidden by the environment variable CUDA_VISIBLE_DEVICES={hidden!r}"
        yield Finding(SECTION, "warning", "driver", "device", text, "Unset it")
    else:
        text = f"torch is a build for CUDA {torch.version.cuda} and cannot use the card that is here ({shown})"
        text += f": {printable(reason, 300)}" if reason else ": its driver is too old for that, or does not run"
        yield Finding(SECTION, "error", "driver", "device", text, _DRIVER)


def find_cards() -> list[str]:
    """Names of NVIDIA's cards with their driver, by nvidia-smi, or else by what the driver of Linux says."""
    windows = Path(os.environ.get("SYSTEMROOT", "C:/Windows"), "System32", "nvidia-smi.exe")
    program = shutil.which("nvidia-smi") or (str(windows) if windows.is_file() else None)
    if program is not None:
        command = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, stdin=subprocess.DEVNULL)
            rows = [row for row in csv.reader(done.stdout.splitlines()) if len(row) == 2]
        except (OSError, ValueError, subprocess.TimeoutExpired):
            done, rows = None, []
        if done is not None and done.returncode == 0 and rows:
            return [f"{name.strip()}, driver {driver.strip()}" for name, driver in rows]
    try:
        texts = [path.read_text("utf-8", "replace") for path in sorted(PROC.glob("*/information"))]
    except OSError:
        return []
    return [match[1].strip() for text in texts if (match := re.search(r"^Model:(.*)$", text, re.MULTILINE))]
