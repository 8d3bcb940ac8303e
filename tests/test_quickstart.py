"""The first command a user runs: what it needs, what it keeps, what it says. The run itself is test_recipe.py."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import quickstart


def test_the_fingerprint_changes_with_either_requirements_file(tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart, "CODE", tmp_path)
    (tmp_path / "requirements.txt").write_text("a==1")
    (tmp_path / "requirements-dev.txt").write_text("-r requirements.txt\npytest")
    first = [quickstart.fingerprint(name) for name in ("requirements.txt", "requirements-dev.txt")]
    (tmp_path / "requirements.txt").write_text("a==2")
    second = [quickstart.fingerprint(name) for name in ("requirements.txt", "requirements-dev.txt")]
    assert len({*first, *second}) == 4


@pytest.fixture
def too_old(monkeypatch):
    """As if an old Python had started the quickstart; a test sets what `shutil.which` finds."""
    monkeypatch.setattr(quickstart, "sys", SimpleNamespace(version_info=(3, 9, 2), argv=["quickstart.py"]))
    found: list[str] = []
    monkeypatch.setattr(quickstart.shutil, "which", lambda name: name if name in found else None)
    return found


@pytest.mark.parametrize("version", [(3, 9, 2), (3, 15, 0)])
def test_without_a_usable_python_each_system_gets_a_line(monkeypatch, too_old, version):
    monkeypatch.setattr(quickstart.sys, "version_info", version)
    with pytest.raises(
        quickstart.Stop, match=r"this is Python 3\.(9|15)\.\d; the packages need 3\.10 to 3\.14"
    ) as refused:
        quickstart.main([])
    assert [line.split()[0] for line in str(refused.value).splitlines()[1:]] == ["Windows", "macOS", "Linux"]


def test_another_python_that_runs_goes_on_with_the_same_arguments(monkeypatch, too_old, capsys):
    too_old += ["python3.14", "python3.12", "uv"]
    ran = []

    def run(command, **_):
        if command[0] == "python3.14":  # a name on the PATH that does not start, as pyenv leaves
            raise FileNotFoundError
        ran.append(command)
        return SimpleNamespace(returncode=0 if "-c" in command else 7)

    monkeypatch.setattr(quickstart.subprocess, "run", run)
    assert quickstart.main(["--steps", "5"]) == 7
    assert ran[-1][0] == "python3.12" and ran[-1][-2:] == ["--steps", "5"]
    assert "This is Python 3.9.2; going on with python3.12" in capsys.readouterr().out


def test_windows_asks_its_launcher_first_and_uv_comes_last(monkeypatch, too_old):
    too_old += ["py", "python3.11", "uv"]
    monkeypatch.setattr(quickstart, "os", SimpleNamespace(name="nt"))
    commands = quickstart.other_pythons()
    assert commands[:2] == [["py", "-3.14"], ["py", "-3.13"]] and commands[-2] == ["python3.11"]
    assert commands[-1][:2] == ["uv", "run"]


@pytest.mark.skipif(os.name == "nt", reason="makes a symbolic link")
def test_a_real_old_python_hands_over(tmp_path):
    """With a stand-in that says it is 3.9 but runs this file: the hand-over itself, not its pieces."""
    code = (
        "import sys, runpy; sys.version_info = (3, 9, 1, 'final', 0);"
        f"sys.argv = [{quickstart.__file__!r}, '--help']; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    (tmp_path / "python3.14").symlink_to(sys.executable)
    environment = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    usable = sys.version_info[:2] in quickstart.PYTHONS
    assert usable and done.returncode == 0, done.stderr
    assert "going on with python3.14" in done.stdout and "--no_train" in done.stdout


def test_an_environment_whose_set_up_was_interrupted_is_made_anew(tmp_path):
    broken = tmp_path / "python"
    assert not quickstart.works(broken)
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    assert not quickstart.works(broken)
    assert quickstart.works(Path(sys.executable))


def test_the_workspace_gets_the_samples_once_and_keeps_the_users_files(tmp_path):
    quickstart.fill_workspace(tmp_path)
    song = tmp_path / "raw" / quickstart.SONG
    voices = sorted(path.name for path in (tmp_path / "dataset_raw").iterdir())
    assert voices == ["be_ksenya_f", "it_carlo_m_16k"] and song.stat().st_size > 100_000
    song.write_bytes(b"mine")
    quickstart.fill_workspace(tmp_path)
    assert song.read_bytes() == b"mine"
    assert not list(tmp_path.rglob("*.copying"))


def test_the_newest_model_is_the_one_with_the_highest_number(tmp_path):
    for name in ("G_900.pth", "G_1000.pth", "G_best.pth", "D_2000.pth"):
        (tmp_path / name).touch()
    assert quickstart.newest_model(tmp_path).name == "G_1000.pth"


def test_no_model_is_a_line_and_not_a_traceback(tmp_path):
    with pytest.raises(quickstart.Stop, match="no trained model"):
        quickstart.newest_model(tmp_path)


def test_a_failing_script_stops_the_recipe_with_its_name(tmp_path, monkeypatch):
    (tmp_path / "bad.py").write_text("raise SystemExit(2)")
    monkeypatch.setattr(quickstart, "CODE", tmp_path)
    with pytest.raises(quickstart.Stop, match=r"bad\.py ended with code 2"):
        quickstart.run_script(Path(sys.executable), tmp_path, "bad.py")


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to a group")
def test_ctrl_c_waits_until_the_script_has_saved(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import signal, sys, time, pathlib\n"
        "def save(*_):\n    time.sleep(1)\n    pathlib.Path('saved').touch()\n    sys.exit(130)\n"
        "signal.signal(signal.SIGINT, save)\npathlib.Path('ready').touch()\ntime.sleep(60)\n"
    )
    code = f"""
import sys; sys.path[0] = {str(Path(quickstart.__file__).parent)!r}
import quickstart
quickstart.CODE = folder = quickstart.Path({str(tmp_path)!r})
quickstart.run_script(quickstart.Path(sys.executable), folder, "slow.py")
"""
    apart = {"start_new_session": True, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code], **apart)
    while not (tmp_path / "ready").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=30)[1] and (tmp_path / "saved").exists()


def test_a_change_in_an_included_file_installs_again(monkeypatch, tmp_path):
    monkeypatch.setattr(quickstart, "CODE", tmp_path)
    (tmp_path / "dev.txt").write_text("-r run.txt\npytest\n")
    (tmp_path / "run.txt").write_text("-r deep.txt\n")
    (tmp_path / "deep.txt").write_text("torch==1\n")
    before = quickstart.fingerprint("dev.txt")
    assert quickstart.fingerprint("dev.txt") == before != quickstart.fingerprint("run.txt")
    (tmp_path / "deep.txt").write_text("torch==2\n")
    assert quickstart.fingerprint("dev.txt") != before


@pytest.mark.parametrize("arguments", [["install"], ["install", "requirements-webui.txt"]])
def test_install_alone_installs_what_is_named(monkeypatch, capsys, arguments):
    monkeypatch.setattr(quickstart, "install", lambda requirements: f"python with {requirements}")
    assert quickstart.main(arguments) == 0
    assert f"python with {[*arguments, 'requirements.txt'][1]}" in capsys.readouterr().out


def test_a_python_without_ensurepip_gets_its_environment_from_virtualenv(monkeypatch, tmp_path, capsys):
    fails, ran = {"venv"}, []

    def run(command, env=None, **_):
        ran.append((command[2], env))
        return SimpleNamespace(returncode=int(command[2] in fails))

    monkeypatch.setattr(quickstart.subprocess, "run", run)
    quickstart.make_environment()
    (_, _), (_, _), (_, environment) = ran
    assert [module for module, _ in ran] == ["venv", "pip", "virtualenv"] and environment["PYTHONPATH"]
    fails.add("pip")
    with pytest.raises(quickstart.Stop, match="could not make"):
        quickstart.make_environment()


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """What the quickstart would run, script by script; each leaves what the next one looks for."""
    ran = []

    def run_script(python, workspace, script, *flags):
        ran.append((script, flags))
        if script == "train.py":
            (workspace / "logs/44k").mkdir(parents=True)
            (workspace / f"logs/44k/G_{flags[-1]}.pth").touch()

    monkeypatch.setattr(quickstart, "install", lambda requirements: Path(sys.executable))
    monkeypatch.setattr(quickstart, "run_script", run_script)
    return ran


def test_the_first_song_is_sung_by_the_voice_that_comes_along(commands, tmp_path, capsys):
    assert quickstart.main(["--workspace", str(tmp_path / "my голос"), "--no_train"]) == 0
    assert [script for script, _ in commands] == ["inference_main.py", "compare.py"]
    flags = commands[0][1]
    model, config = (Path(flags[flags.index(flag) + 1]) for flag in ("-m", "-c"))
    assert model.is_file() and config.is_file() and model.parent == quickstart.BASE
    assert flags[flags.index("-s") + 1] in config.read_text("utf-8")
    assert flags[flags.index("-lea") + 1] == "0", "as loud as the song: the small voice itself is much quieter"
    assert capsys.readouterr().out.count("Converted song: ") == 1


def test_then_a_voice_is_trained_from_it_and_sings_the_same_song(commands, tmp_path, capsys):
    assert quickstart.main(["--workspace", str(tmp_path), "--steps", "7"]) == 0
    scripts = [script for script, _ in commands]
    recipe = ["resample.py", "preprocess_flist_config.py", "preprocess_hubert_f0.py", "train.py"]
    assert scripts == ["inference_main.py", "compare.py", *recipe, "inference_main.py", "compare.py"]
    train, song = commands[5][1], commands[6][1]
    assert Path(train[train.index("--base") + 1]) == quickstart.BASE
    assert song[:4] == ("-m", "logs/44k/G_7.pth", "-c", "logs/44k/config.json")
    assert song[song.index("-lea") + 1] == "0"
    results = [line.split(maxsplit=2)[2] for line in capsys.readouterr().out.splitlines() if "Converted song" in line]
    assert len(set(results)) == 2, "the second song does not replace the first"


def test_the_web_page_is_shown_in_the_folder_that_one_stands_in(commands, monkeypatch):
    installed, ran = [], []
    monkeypatch.setattr(quickstart, "install", lambda name: installed.append(name) or Path(sys.executable))
    done = SimpleNamespace(returncode=130)
    monkeypatch.setattr(quickstart.subprocess, "run", lambda command, **where: ran.append((command, where)) or done)
    assert quickstart.main(["webui", "--port", "7870"]) == 130
    assert installed == ["requirements-webui.txt"]
    assert ran == [([sys.executable, str(quickstart.CODE / "webUI.py"), "--port", "7870"], {})]


def test_a_song_of_another_model_has_a_number_and_is_found(tmp_path):
    (tmp_path / "results").mkdir()
    assert quickstart.newest_result(tmp_path, "song") == Path("results/song.flac")
    for age, name in enumerate(("song_2.flac", "song.flac", "other.flac")):
        (tmp_path / "results" / name).touch()
        os.utime(tmp_path / "results" / name, (1000 - age, 1000 - age))
    assert quickstart.newest_result(tmp_path, "song") == Path("results/song_2.flac")


def test_paths_are_shown_as_one_would_type_them(tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart, "CODE", tmp_path / "code")
    inside = tmp_path / "code/quickstart_workspace"
    assert quickstart.shown(tmp_path / "code/train.py", inside) == "../train.py"
    assert quickstart.shown(tmp_path / "voices/logs/G_1.pth", tmp_path / "voices") == "logs/G_1.pth"
    assert quickstart.shown(tmp_path / "code/train.py", tmp_path / "voices") == (tmp_path / "code/train.py").as_posix()
