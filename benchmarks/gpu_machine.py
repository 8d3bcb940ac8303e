"""Sections of on_gpu.py about the machine: what it is, and whether the tests that need a GPU pass on it."""

import os
import platform
import subprocess
import sys
from xml.etree import ElementTree

from gpu_report import Bench, Value, Values
from timing import ROOT


def environment(bench: Bench) -> None:
    """What the figures belong to."""
    bench.measure("machine", _machine)
    if bench.on_cuda:
        import torch

        for index in range(torch.cuda.device_count()):
            bench.measure(f"cuda:{index}", _card, index)


def tests(bench: Bench) -> None:
    """The tests of this checkout that need an NVIDIA GPU."""
    if bench.on_cuda:
        bench.measure("pytest -m cuda", _tests)
    else:
        bench.skip("pytest -m cuda", "needs a CUDA GPU")


def _machine(bench: Bench) -> Values:
    import torch

    found = {"device": Value(str(bench.device)), "system": Value(platform.platform())}
    found |= {
        "cores": Value(os.cpu_count() or 0, "cores"),
        "torch's threads": Value(torch.get_num_threads(), "threads"),
    }
    versions = {"Python": platform.python_version(), "PyTorch": torch.__version__, "CUDA": torch.version.cuda}
    versions["cuDNN"] = torch.backends.cudnn.version() if bench.on_cuda else None
    versions["NVIDIA driver"] = _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    versions["checkout"] = _first_line("git", "-C", str(ROOT), "describe", "--always", "--dirty")
    return found | {name: Value(str(version)) for name, version in versions.items() if version}


def _card(bench: Bench, index: int) -> Values:
    import torch

    card = torch.cuda.get_device_properties(index)
    free, _ = torch.cuda.mem_get_info(index)
    found = {"name": Value(card.name), "compute capability": Value(f"{card.major}.{card.minor}")}
    found["memory"] = Value(card.total_memory / 2**20, "MB")
    return found | {"free now": Value(free / 2**20, "MB"), "size": Value(card.multi_processor_count, "processors")}


def _tests(bench: Bench) -> Values:
    """How many of the tests did what; a RuntimeError that names a failed one, if there is one."""
    report = bench.plan.workspace / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-m", "cuda", f"--junitxml={report}", "tests"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, flush=True)
    lines = done.stdout.strip().splitlines() or ["it said nothing"]
    if not report.is_file():
        raise RuntimeError(f"pytest ended with {done.returncode}: {lines[-1]}")
    counts, failed = count_tests(report.read_text("utf-8"))
    if failed or done.returncode:
        passed = ", ".join(f"{number} {name}" for name, number in counts.items())
        raise RuntimeError(f"{passed}; the first that failed: {failed[0] if failed else lines[-1]}")
    return {name: Value(number, "tests") for name, number in counts.items()}


def count_tests(junit: str) -> tuple[dict[str, int], list[str]]:
    """How many tests passed, failed and were skipped by pytest's XML, and the names of those that failed."""
    failed, counts = [], {"passed": 0, "failed": 0, "skipped": 0}
    for case in ElementTree.fromstring(junit).iter("testcase"):
        kinds = {child.tag for child in case}
        kind = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        counts[kind] += 1
        if kind == "failed":
            failed.append(case.get("name", "?"))
    return counts, failed


def _first_line(*command: str) -> str | None:
    """What a program says first; None where it is not here or fails."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else None
