"""The notebooks run, go on after they were stopped, and say everything in both languages."""

import ast
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import soundfile
from notebook_runs import NOTEBOOKS, ROOT, kernel, read, run_all
from test_docs import help_of
from test_layers import imports_of

by_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)

SCRIPTS_AND_FLAGS = {"train_and_sing.ipynb": (8, 14), "webui.ipynb": (1, 3)}  # at least so many are found


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
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    code = "\n".join(text for text in cells if 'run("' in text)
    if path.name == "webui.ipynb":
        code += (ROOT / "notebooks" / "way_in.py").read_text("utf-8")
    scripts, flags = re.findall(r'run\("([\w/]+\.py)"', code), re.findall(r'"(--?[a-z]\w*)"', code)
    assert (len(scripts), len(flags)) >= SCRIPTS_AND_FLAGS[path.name]
    known = "".join(map(help_of, scripts))
    for flag in flags:
        assert re.search(rf"(?<![\w-]){re.escape(flag)}\b", known), flag


def test_the_cells_need_nothing_but_python_and_jupyter():
    for path in (ROOT / "notebooks").glob("*.py"):
        for name, at_top in imports_of(ast.parse(path.read_text("utf-8"))):
            package = name.split(".")[0]
            ours = package in ("quickstart", "cells", "scripts", "IPython")
            assert ours or package in sys.stdlib_module_names or not at_top, f"{path.name}: {name}"


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


FORM = {"REPOSITORY": str(ROOT), "WORKSPACE": "my 工作", "DATA": "takes.zip", "SONG": "song.flac"}
FORM |= {"SPEAKER": "", "PYTHON": sys.executable}


def test_a_voice_is_trained_and_sings(recordings):
    notebook = read("train_and_sing.ipynb", **FORM, STEPS=1)
    showed = run_all(notebook, recordings)
    workspace = recordings / "my 工作"
    assert "10 to 60 min make a good voice" in showed["doctor"], "the doctor's findings do not end the run"
    assert "4 written" in showed["clips"] and "4 made" in showed["features"]
    assert "starting from the weights of" in showed["training"] and (workspace / "logs/voice/G_1.pth").is_file()
    assert f"$ python {(ROOT / 'train.py').as_posix()} -m voice --base" in showed["training"]
    source, result = (soundfile.read(path)[0] for path in (recordings / "song.flac", one_result(workspace)))
    assert len(result) == len(source) and np.isfinite(result).all() and np.abs(result).max() > 1e-3
    outputs = next(cell.outputs for cell in notebook.cells if cell.id == "listening")
    assert sum("<audio" in output.get("data", {}).get("text/html", "") for output in outputs) == 2, "two players"
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1, "one picture"


@pytest.mark.slow
def test_a_voice_that_is_trained_goes_on(recordings):
    workspace = recordings / "again"
    run_all(_only_training(1), recordings)
    made = {path: path.stat().st_mtime_ns for path in files_of(workspace)}
    config = (workspace / "configs/config.json").read_bytes()
    showed = run_all(_only_training(2), recordings)
    assert "0 written, 4 unchanged" in showed["clips"] and "0 made, 4 up to date" in showed["features"]
    assert "going on from logs/voice/G_1.pth" in showed["training"] and (workspace / "logs/voice/G_2.pth").is_file()
    assert (workspace / "configs/config.json").read_bytes() == config
    assert {path: path.stat().st_mtime_ns for path in files_of(workspace)} == made, "nothing is made twice"


def _only_training(steps: int):
    """The notebook without what comes after the training."""
    notebook = read("train_and_sing.ipynb", **FORM | {"WORKSPACE": "again"}, STEPS=steps)
    notebook.cells = [cell for cell in notebook.cells if cell.id not in ("doctor", "song", "listening")]
    clips = next(cell for cell in notebook.cells if cell.id == "clips")
    clips.source = f"data = recordings(DATA, workspace)\n{clips.source}"
    return notebook


def files_of(workspace: Path) -> list[Path]:
    """The clips and their features."""
    found = [path for path in workspace.glob("dataset/44k/alto/*") if path.is_file()]
    assert len(found) >= 4 * 5
    return found


def one_result(workspace: Path) -> Path:
    (result,) = workspace.glob("results/*.flac")
    return result


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A kernel that has the helper, in a folder with scripts of its own in place of ours."""
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "fails.py").write_text("print('what is wrong')\nraise SystemExit(2)")
    (folder / "finds.py").write_text("raise SystemExit(1)")
    (folder / "draws.py").write_text(
        "import os, sys\n"
        "sys.stderr.write(''.join(f'\\rwork: {n}%|###|' for n in range(101)) + '\\ndone\\r\\n')\n"
        "print('MPLBACKEND' in os.environ, os.environ['EXTRA'])"
    )
    (folder / "saves.py").write_text(
        "import pathlib, time\n"
        "for times in range(9):\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(0.5 if times else 60)\n"
        "        break\n"
        "    except KeyboardInterrupt:\n"
        "        continue\n"
        "pathlib.Path('saved').write_text(str(times))\n"
        "raise SystemExit(130)"
    )
    with kernel(folder) as opened:
        paths = [str(ROOT), str(ROOT / "notebooks")]
        opened.run(f"import sys; sys.path[:0] = {paths}; import scripts, pathlib; scripts.CODE = pathlib.Path.cwd()")
        opened.run("ours = scripts.Scripts(scripts.CODE, sys.executable); run = ours.run")
        yield opened, folder


def test_a_script_that_fails_ends_the_cell_with_one_line(started):
    showed = started[0].run("run('fails.py')")
    assert showed.endswith("what is wrong\nerror: fails.py ended with code 2; the lines above say why.")
    assert "goes on" in started[0].run("run('finds.py', goes_on=True); print('goes on')")
    assert "ended with code 1" in started[0].run("run('finds.py')")


def test_a_bar_is_drawn_in_one_place_and_the_kernels_settings_stay_away(started):
    showed = started[0].run("run('draws.py', EXTRA='more'); print(ours.lines)")
    assert showed.count("work: ") == showed.count("work: 100%|###|") + showed.count("work: 0%|###|"), showed
    assert "\r" not in showed and "['work: 100%|###|', 'done', 'False more']" in showed


def test_the_stop_button_reaches_the_script_once_and_waits_until_it_has_saved(started):
    opened, folder = started
    showed = opened.run("run('saves.py')", ready=lambda text: "ready" in text)
    assert (folder / "saved").read_text() == "1", "a second Ctrl-C would end it without saving"
    assert showed.endswith("error: saves.py was stopped. Run this cell again to go on.") and "Traceback" not in showed


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_a_script_saves_and_ends_when_its_kernel_is_killed(tmp_path):
    (tmp_path / "works.py").write_text(
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path('saved').touch(), sys.exit(0)))\n"
        "pathlib.Path('ready').touch()\n"
        "time.sleep(60)\n"
    )
    with kernel(tmp_path) as opened:
        paths = [str(ROOT), str(ROOT / "notebooks")]
        opened.run(f"import sys; sys.path[:0] = {paths}; import scripts, pathlib; scripts.CODE = pathlib.Path.cwd()")
        opened.start("scripts.Scripts(scripts.CODE, sys.executable).run('works.py')")
        wait_for(tmp_path / "ready")
        assert not (tmp_path / "saved").exists()
        opened.kill()
        wait_for(tmp_path / "saved")


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


@pytest.mark.slow
def test_the_page_is_up_until_the_cell_is_stopped(tmp_path):
    pytest.importorskip("gradio")
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    notebook = read("webui.ipynb", REPOSITORY=str(ROOT), WORKSPACE="page", PORT=port, PYTHON=sys.executable)
    codes = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    with kernel(tmp_path) as opened:
        assert not re.search("error|Error", "".join(map(opened.run, codes[:-1])))
        showed = opened.run(codes[-1], ready=lambda text: "HTML object" in text and answers(url))
    assert showed.endswith("error: webUI.py was stopped. Run this cell again to go on.") and "Traceback" not in showed
    assert (tmp_path / "page").is_dir() and not answers(url)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=30) as page:
            return page.status == 200
    except OSError:
        return False


def test_the_page_is_reached_in_the_way_of_each_platform(cells, monkeypatch):
    import way_in

    home = way_in.way_in(7861)
    assert (home.link, home.flags, home.variables) == ("http://127.0.0.1:7861", (), {})
    monkeypatch.setattr(way_in, "server_path", lambda: "/jupyterlab/default/")
    monkeypatch.setattr(way_in, "platform", lambda: "SageMaker")
    hosted = way_in.way_in(7861)
    assert hosted.link == "/jupyterlab/default/proxy/7861/"
    assert hosted.flags == ("--listen", "--root_path", "/jupyterlab/default/proxy/7861")
    assert len(hosted.variables["WEBUI_AUTH"]) > 20 and hosted.variables != way_in.way_in(7861).variables
    colab = SimpleNamespace(eval_js=lambda code: f"https://{code[-5:-1]}.example/")
    monkeypatch.setitem(sys.modules, "google.colab.output", colab)
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace(output=colab))
    monkeypatch.setattr(way_in, "platform", lambda: "Colab")
    assert way_in.way_in(7861).flags == ("--listen", "--root_path", "https://7861.example")
    monkeypatch.setattr(way_in, "platform", lambda: "Kaggle")
    with pytest.raises(cells.Stop, match="train_and_sing"):
        way_in.way_in(7861)


def test_the_platform_is_known_by_what_it_sets(cells, monkeypatch):
    assert cells.platform() == "Jupyter"
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/me/")
    assert cells.platform() == "JupyterHub"
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert cells.platform() == "Kaggle"


def test_the_path_of_the_server_is_the_newest_ones(cells, monkeypatch, tmp_path):
    monkeypatch.setattr("jupyter_core.paths.jupyter_runtime_dir", lambda: str(tmp_path))
    assert cells.server_path() == "/"
    for age, base in enumerate(("/user/me/", "/old/")):
        (tmp_path / f"jpserver-{age}.json").write_text(json.dumps({"base_url": base}))
        os.utime(tmp_path / f"jpserver-{age}.json", (1000 - age, 1000 - age))
    assert cells.server_path() == "/user/me/"


def test_data_that_is_no_folder_of_speakers_is_refused_in_a_line(cells, tmp_path):
    assert cells.recordings("", tmp_path) == ROOT / "samples" / "voices"
    with pytest.raises(cells.Stop, match="there is no"):
        cells.recordings(str(tmp_path / "none"), tmp_path)
    (tmp_path / "no.zip").write_text("text")
    with pytest.raises(cells.Stop, match="neither a folder nor a zip"):
        cells.recordings(str(tmp_path / "no.zip"), tmp_path)
    with zipfile.ZipFile(tmp_path / "ours.zip", "w") as archive:
        for name in ("alto/a.wav", "tenor/b.wav", "__MACOSX/alto/._a.wav"):
            archive.writestr(name, b"sound")
    found = cells.recordings(str(tmp_path / "ours.zip"), tmp_path)
    assert sorted(path.name for path in found.iterdir()) == ["alto", "tenor"]


def find_code(folder: Path, monkeypatch, repository: str) -> Path:
    """What the cell of both notebooks that looks for the code finds, from `folder`."""
    source = next(cell.source for cell in read("webui.ipynb").cells if cell.id == "code")
    names = {"REPOSITORY": repository}
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    exec(compile(source, "code", "exec"), names)
    return names["CODE"]


def test_the_code_is_found_fetched_or_asked_for(tmp_path, monkeypatch):
    assert find_code(ROOT / "notebooks", monkeypatch, "") == ROOT
    with pytest.raises(SystemExit, match="REPOSITORY is empty"):
        find_code(tmp_path, monkeypatch, "")
    assert find_code(tmp_path, monkeypatch, str(ROOT)) == ROOT.resolve()
    code = tmp_path / "our code"
    (code / "notebooks").mkdir(parents=True)
    (code / "notebooks" / "cells.py").touch()
    zipped = shutil.make_archive(str(tmp_path / "code"), "zip", tmp_path, "our code")
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=code, check=True)
    for number, place in enumerate((zipped, code.as_uri())):
        (tmp_path / str(number)).mkdir()
        for _ in range(2):  # the second time the copy is used
            found = find_code(tmp_path / str(number), monkeypatch, place)
            assert found == tmp_path / str(number) / "singing_voice" and (found / "notebooks/cells.py").is_file()
    (tmp_path / "2").mkdir()
    with pytest.raises(SystemExit, match="REPOSITORY: fatal"):
        find_code(tmp_path / "2", monkeypatch, (tmp_path / "none").as_uri())
    assert not (tmp_path / "2" / "singing_voice").exists()
