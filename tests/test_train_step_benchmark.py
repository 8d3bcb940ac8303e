"""The benchmark of training steps: help and import cost nothing, and a micro run measures what it says."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks/train_step.py"
# Enough to run everything, small enough for a test.
FLAGS = ["--device", "cpu", "--micro", "--batch_size", "2", "--frames", "24", "--steps", "1"]


def run(folder, *flags):
    done = subprocess.run([sys.executable, str(SCRIPT), *flags], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir()), "only a temporary folder is written to"
    return done.stdout


def test_help_works_in_an_empty_folder(tmp_path):
    assert run(tmp_path, "--help").startswith("usage: train_step.py")


def test_importing_has_no_effect(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import train_step; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stdout and not done.stderr and not list(tmp_path.iterdir())


def test_a_micro_run_prints_time_memory_shares_and_the_ratio(tmp_path):
    said = run(tmp_path, *FLAGS, "--compare")
    for pattern in (
        r"^step: [\d.]+ s .* CPU s$",
        r"^clips/s: [\d.]+; trained: [\d.]+ s of audio per second$",
        r"^memory: \d+ MB$",
        r"^plain / ours: [\d.]+ by medians",
    ):
        assert re.search(pattern, said, re.MULTILINE), said
    shares = dict(re.findall(r"(\w[\w ]*) (\d+) %", said.partition("shares: ")[2]))
    assert len(shares) == 6 and 95 <= sum(map(int, shares.values())) <= 105
    assert shares["generator backward"] != "0"
