"""A write is whole or did not happen, and only dead processes' leftovers are removed."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modules import files
from modules.errors import UsageError, reason_of
from modules.files import atomic_path, lock_folder, remove_leftovers, set_aside, sha256_of, write_json

ROOT = Path(__file__).resolve().parent.parent


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_good_write_makes_folders_and_takes_the_name(tmp_path):
    path = tmp_path / "new folder" / "ключ 音.json"
    write_json(path, {"имя": [1, 2]})
    assert json.loads(path.read_text("utf-8")) == {"имя": [1, 2]}
    assert "имя" in path.read_text("utf-8"), "people read these files"
    assert len(list(path.parent.iterdir())) == 1


def test_leftovers_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path):
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    ).stdout
    gone = tmp_path / "sub" / f".a.wav.{dead.strip()}.partial.wav"
    gone.parent.mkdir()
    gone.touch()
    kept = tmp_path / f".b.wav.{os.getpid()}.partial.wav"
    kept.touch()
    users = tmp_path / ".notes.partial.txt"
    users.touch()
    remove_leftovers(tmp_path)
    assert not gone.exists() and kept.exists() and users.exists()


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_of(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_hashing_shows_a_bar_when_told_and_only_when_it_takes_long(tmp_path, monkeypatch, capsys):
    (tmp_path / "big.pth").write_bytes(b"abc")
    assert sha256_of(tmp_path / "big.pth", show=True) == sha256_of(tmp_path / "big.pth")
    assert capsys.readouterr().err == ""
    bar = files.tqdm
    monkeypatch.setattr(files, "tqdm", lambda **settings: bar(**{**settings, "delay": settings["delay"] - 2}))
    sha256_of(tmp_path / "big.pth")
    assert capsys.readouterr().err == ""
    sha256_of(tmp_path / "big.pth", show=True)
    assert "big.pth" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux keeps the state of a process there")
def test_a_killed_process_that_nobody_waited_for_counts_as_dead(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    leftover = tmp_path / f".a.wav.{child.pid}.partial.wav"
    leftover.touch()
    while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    remove_leftovers(tmp_path)
    assert not leftover.exists()
    child.wait()


def test_a_failed_write_names_the_artefact_and_not_its_temporary_name(tmp_path):
    def fail(text):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError) as refused, atomic_path(tmp_path / "a.txt") as temporary:
        fail(temporary)
    assert reason_of(refused.value) == f"{tmp_path / 'a.txt'}: the disk is full"
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(OSError) as refused:
        write_json(tmp_path / "folder.json", {})
    assert reason_of(refused.value, tmp_path / "folder.json") == "is a folder, expected a file"
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder.json"]


def test_what_is_set_aside_takes_the_next_free_number(tmp_path):
    for number in (1, 2):
        (tmp_path / "a.csv").write_text(str(number))
        assert set_aside(tmp_path / "a.csv").name == f"a.csv.bak-{number}"
    assert (tmp_path / "a.csv.bak-1").read_text() == "1"
    with pytest.raises(UsageError, match="cannot be set aside"):
        set_aside(tmp_path / "missing")


def test_a_locked_folder_keeps_another_process_out_and_a_dead_one_locks_nothing(tmp_path):
    code = f"""if True:
        import sys, time
        from pathlib import Path
        from modules.files import lock_folder
        with lock_folder(Path({str(tmp_path)!r})):
            print("in", flush=True)
            time.sleep(60)
    """
    other = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "in\n"
    with pytest.raises(UsageError, match=f"number {other.pid}"), lock_folder(tmp_path):
        pytest.fail("two processes are in")
    other.kill()
    other.wait()
    with lock_folder(tmp_path):
        pass
    with lock_folder(tmp_path):
        pass


def test_a_leftover_that_may_not_be_deleted_ends_nothing(tmp_path, monkeypatch, caplog):
    (tmp_path / ".a.wav.4194303.partial.wav").touch()  # more than a process number can be by default

    def unlink(path, missing_ok=False):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", unlink)
    remove_leftovers(tmp_path)
    assert "cannot be deleted (permission denied)" in caplog.text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_cannot_be_set_aside_as_a_copy(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(UsageError, match=r"config.json.bak-1 \(.*named pipe.*\); move it away") as caught:
        set_aside(tmp_path / "config.json", copy=True)
    assert "None" not in str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="needs mkfifo")
@pytest.mark.parametrize("make", [Path.mkdir, lambda path: os.mkfifo(path)])
def test_what_stands_in_the_place_of_a_lock_is_named_with_the_remedy(tmp_path, make):
    make(tmp_path / ".lock")
    with pytest.raises(UsageError, match=r"\.lock: is no file, .*; delete it"), lock_folder(tmp_path):
        pass
