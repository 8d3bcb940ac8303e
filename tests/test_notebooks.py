"""The notebooks run, go on after they were stopped, and say everything in both languages."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

import nbformat
import numpy as np
import pytest
import soundfile
from jupyter_client import KernelManager
from nbclient.exceptions import CellExecutionError
from notebook_runs import NOTEBOOKS, ROOT, kernel, read, run_all
from test_docs import help_of

by_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
BRANCHES = {"train_and_sing.ipynb": 12, "webui.ipynb": 2}  # at least so many flags are found


@pytest.fixture(scope="module")
def cells():
    """notebooks/cells.py, as a notebook imports it."""
    sys.path.insert(0, str(ROOT / "notebooks"))
    import cells

    yield cells
    sys.path.remove(str(ROOT / "notebooks"))


@by_notebook
def test_a_notebook_is_clean(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5) and notebook.metadata.kernelspec.name == "python3"
    assert [cell.id for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])] == ["parameters"]
    for cell in notebook.cells:
        assert re.fullmatch(r"[a-z-]+", cell.id), "an id that an editor made up"
        assert cell.cell_type == "markdown" or not (cell.outputs or cell.execution_count)
    assert path.stat().st_size < 30_000


@by_notebook
def test_every_text_is_in_english_and_in_chinese(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            assert len(re.findall(r"[\u4e00-\u9fff]", cell.source)) > 10, cell.id
            assert len(re.findall(r"[A-Za-z]{3,}", re.sub(r"`[^`]*`|\(.*?\)", "", cell.source))) > 10, cell.id


@by_notebook
def test_scripts_and_flags_in_the_cells_exist(path):
    code = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    scripts = re.findall(r'run\("([\w/]+\.py)"', code)
    flags = re.findall(r'"(--?[a-z]\w*)"', re.sub(r"\n    clone = .*", "", code.replace("        clone", "    clone")))
    known = "".join(map(help_of, scripts))
    assert scripts and len(flags) >= BRANCHES[path.name] - 1
    for flag in flags:
        assert re.search(rf"(?<![\w-]){re.escape(flag)}\b", known), flag


def test_both_notebooks_find_the_code_in_the_same_way():
    found = [[cell for cell in nbformat.read(path, as_version=4).cells if cell.id == "code"] for path in NOTEBOOKS]
    assert found[0] == found[1] and len(found[0]) == 1


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    """A folder with a zip of one short voice, and a song of three seconds."""
    folder = tmp_path_factory.mktemp("mein 数据")
    with zipfile.ZipFile(folder / "takes.zip", "w") as archive:
        for path in sorted((ROOT / "samples/voices/be_ksenya_f").glob("*.flac"))[:4]:
            wav, rate = soundfile.read(path)
            soundfile.write(folder / path.name, wav[: 3 * rate], rate)
            archive.write(folder / path.name, f"takes/alto/{path.name}")
    wav, rate = soundfile.read(ROOT / "samples/songs/sing_vocadito_14.flac")
    soundfile.write(folder / "song.flac", wav[: 3 * rate], rate)
    return folder


def test_a_voice_is_trained_and_sings_and_goes_on(recordings):
    places = {"REPOSITORY": str(ROOT), "WORKSPACE": "my 工作", "DATA": "takes.zip", "SONG": "song.flac"}
    common = {**places, "SPEAKER": "", "PYTHON": sys.executable}
    notebook = read("train_and_sing.ipynb", **common, STEPS=1)
    showed = run_all(notebook, recordings)
    workspace = recordings / "my 工作"
    assert "10 to 60 min make a good voice" in showed["doctor"], "the doctor's findings do not end the run"
    assert "4 written" in showed["clips"] and "4 made" in showed["features"]
    assert "starting from the weights of" in showed["training"] and (workspace / "logs/voice/G_1.pth").is_file()
    assert f"$ python {(ROOT / 'train.py').as_posix()} -m voice --base" in showed["training"]
    source, result = (soundfile.read(path)[0] for path in (recordings / "song.flac", one_result(workspace)))
    assert len(result) == len(source) and np.isfinite(result).all() and np.abs(result).max() > 1e-3
    shown = [output.data for cell in notebook.cells if cell.id == "listening" for output in cell.outputs[1:] if "data" in output]
    assert sum("<audio" in data.get("text/html", "") for data in shown) == 2
    assert sum("image/png" in data for data in shown) == 1

    again = read("train_and_sing.ipynb", **common, STEPS=2)
    again.cells = [cell for cell in again.cells if cell.id not in ("doctor", "song", "listening")]
    next(cell for cell in again.cells if cell.id == "clips").source = "data = recordings(DATA, workspace)\n" + next(cell for cell in again.cells if cell.id == "clips").source
    showed = run_all(again, recordings)
    assert "0 written, 4 unchanged" in showed["clips"] and "0 made, 4 up to date" in showed["features"]
    assert "going on from logs/voice/G_1.pth" in showed["training"] and (workspace / "logs/voice/G_2.pth").is_file()


def one_result(workspace: Path) -> Path:
    (result,) = workspace.glob("results/*.flac")
    return result
