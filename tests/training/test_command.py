"""What the training commands refuse before they import torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modules.config.diffusion import parse_diffusion_config, save_diffusion_config
from modules.config.io import parse_config, save_config
from modules.errors import UsageError
from modules.training.command import check_run_name

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("name", [
    "", " ", "/", "/tmp/x", "//x", "..", ".", "../x", "a/../..", "a/../b", "./a", "a//b", "CON", "con", "aux.txt",
    "a/NUL", "COM1", "lpt9.x", "C:",
    "C:\\x", "c:x", "\\\\host\\x", "a\\b", "a\0b", "a\nb", "\x1b[2J", "a*", "a?", "a:b", "a|b",
    '"a"', "<a>", "a.", "a ", "...",
])  # fmt: skip
def test_a_name_that_is_no_folder_below_logs_everywhere_is_refused(name):
    with pytest.raises(UsageError, match=r"-m/--model .*expected a name like 44k") as caught:
        check_run_name(name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "name", ["44k", "a/b", "my voice", "Åsa", "空", ".hidden", "v1.2", "44k/", "console", "a..b", "-x"]
)
def test_a_name_of_a_folder_is_taken(name):
    check_run_name(name)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """Configs that are whole, no lists, and a package torch that cannot be imported."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fake/torch").mkdir(parents=True)
    (tmp_path / "fake/torch/__init__.py").write_text("raise SystemExit('torch was imported')")
    save_config(parse_config({"spk": {"alto": 0}}), "configs/config.json")
    save_diffusion_config(parse_diffusion_config({"spk": {"alto": 0}}), "configs/diffusion.yaml")
    return tmp_path


LISTS = ["filelists/train.txt: no such file", "filelists/val.txt: no such file"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["train.py", "-m", "44k", "-c", "none.json"], ["none.json: no such file"]),
        (["train.py", "-m", "44k", "--base", "nowhere"], [*LISTS, "--base nowhere: holds no G_0.pth"]),
        (["train.py", "-m", ".."], ["-m/--model '..'"]),
        (["train.py", "-m", "44k", "-d", "tpu"], ["-d/--device 'tpu'"]),
        (["train.py", "-m", "44k", "--gpus", "all"], ["--gpus 'all'"]),
        (["train.py", "-m", "44k", "--max_steps", "0"], ["--max_steps 0"]),
        (["train_diff.py"], LISTS),
        (["train_diff.py", "-c", "none.yaml"], ["none.yaml: no such file"]),
        (["train_diff.py", "-d", "tpu"], ["-d/--device 'tpu'"]),
    ],
)
def test_a_cheap_mistake_is_one_line_before_torch_is_imported(workspace, command, said):
    environment = {**os.environ, "PYTHONPATH": str(workspace / "fake")}
    done = subprocess.run(
        [sys.executable, str(ROOT / command[0]), *command[1:]], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert all(text in done.stderr for text in said) and not (workspace / "logs").exists()
