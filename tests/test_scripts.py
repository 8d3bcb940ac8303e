"""Every script shows its help in an empty folder and does nothing when imported."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(
    path
    for path in [*ROOT.glob("*.py"), *(ROOT / "cluster").glob("train_*.py"), *(ROOT / "pretrain").glob("*.py")]
    if '__name__ == "__main__"' in path.read_text("utf-8")
)
ALIASES = {"zz_webui.py": "webUI.py"}  # other names that so-vits-svc has for a script


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_works_in_an_empty_folder(script, tmp_path):
    done = subprocess.run(
        [sys.executable, str(script), "--help"], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: " + ALIASES.get(script.name, script.name))
    assert not done.stderr
    assert not list(tmp_path.iterdir()), "help must not write anything"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_an_unknown_flag_ends_with_code_two(script, tmp_path):
    command = [sys.executable, str(script), "--no_such_flag"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_importing_has_no_effect(script, tmp_path):
    code = f"import sys; sys.path.insert(0, {str(script.parent)!r}); import {script.stem}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stdout and not done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_docstring_says_what_is_read_and_written(script):
    text = (ast.get_docstring(ast.parse(script.read_text("utf-8"))) or "").lower()
    for word in ("reads", "writes", "example"):
        assert word in text, f"{script.name}: the docstring does not say '{word}'"


def test_the_scripts_of_the_recipe_are_all_there():
    names = {path.name for path in SCRIPTS}
    recipe = {"resample.py", "preprocess_flist_config.py", "preprocess_hubert_f0.py", "train.py", "inference_main.py"}
    assert recipe | {"quickstart.py"} <= names
