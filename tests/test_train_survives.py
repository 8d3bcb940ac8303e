"""train.py and train_diff.py when the terminal, the disk or somebody else is in the way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_train import run
from test_train import workspace as workspace
from tiny_diffusion import make_diffusion_workspace
from warm_start import Script
from warm_start import start as start_warm

import train
import train_diff
from modules.config.io import load_config, save_config
from modules.errors import CheckpointError, UsageError, UserError
from modules.training.step import VitsStep
from modules.weights.checkpoint import load_weights

ROOT = Path(__file__).resolve().parent.parent
posix = pytest.mark.skipif(os.name == "nt", reason="signals and devices of POSIX")


def change_config(**train_values) -> None:
    config = load_config("configs/config.json")
    for key, value in train_values.items():
        setattr(config.train, key, value)
    save_config(config, "configs/config.json")


def start(script: str = "train.py", **options) -> Script | subprocess.Popen:
    flags = ["-m", "44k"] if script == "train.py" else []
    command = [str(ROOT / script), "-d", "cpu", *flags]
    if "preexec_fn" in options:  # what python does at its start is the point
        return subprocess.Popen([sys.executable, *command], env={**os.environ, "OMP_NUM_THREADS": "1"}, **options)
    return start_warm(command, **options)


def wait_for(log: Path, text: str, process: Script | subprocess.Popen) -> None:
    end = time.monotonic() + 200
    while not (log.is_file() and text in log.read_text("utf-8")):
        assert process.poll() is None and time.monotonic() < end, log.is_file() and log.read_text("utf-8")
        time.sleep(0.02)


@posix
@pytest.mark.parametrize("is_closed", [False, True])
def test_output_that_nobody_takes_ends_no_training_and_the_closing_terminal_saves(workspace, is_closed):
    read, write = os.pipe()
    full = os.open("/dev/full", os.O_WRONLY)
    close = {"preexec_fn": lambda: (os.close(1), os.close(2))} if is_closed else {}
    process = start(stdout=write, stderr=full, **close)
    for descriptor in (read, write, full):
        os.close(descriptor)
    wait_for(Path("logs/44k/train.log"), "step 2,", process)
    process.send_signal(signal.SIGHUP)
    assert process.wait(200) not in (0, None)
    log = Path("logs/44k/train.log").read_text("utf-8")
    step = load_weights(next(Path("logs/44k").glob("G_*.pth")))["step"]
    assert f"stopped at step {step}: saved" in log and step >= 2 and "Traceback" not in log


@posix
def test_a_closing_terminal_saves_the_diffusion_model_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_diffusion_workspace(tmp_path, interval_log=1)
    process = start("train_diff.py", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(Path("logs/44k/diffusion/log_info.txt"), "step 2,", process)
    with pytest.raises(UsageError, match="another process"):
        train_diff.main(["-d", "cpu", "--max_steps", "1"])
    process.send_signal(signal.SIGHUP)
    assert process.wait(100) == 130
    assert len(list(Path("logs/44k/diffusion").glob("model_*.pt"))) == 1


@posix
def test_a_second_training_of_the_same_run_is_refused_and_a_rehearsal_is_not(workspace):
    process = start(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(Path("logs/44k/train.log"), "step 1,", process)
    with pytest.raises(UsageError, match=rf"logs/44k: another process \(number {process.pid}\) is at work there"):
        run("--max_steps", "1")
    assert run("--dry-run") == 0
    process.send_signal(signal.SIGTERM)
    assert process.wait(100) == 130
    assert run("--max_steps", "1") == 0, "its end frees the folder"


def test_a_checkpoint_that_cannot_be_written_is_said_and_tried_again(workspace, capsys, monkeypatch):
    from modules.training import resume

    change_config(eval_interval=1)
    original = resume.save_together

    def save_together(contents):
        if "G_2.pth" in {path.name for path in contents}:
            raise CheckpointError("logs/44k/G_2.pth: could not be written (the disk is full). Free some disk space.")
        original(contents)

    monkeypatch.setattr(resume, "save_together", save_together)
    modes = []
    original_step = VitsStep.run
    monkeypatch.setattr(VitsStep, "run", lambda self, b: modes.append(self.net_g.training) or original_step(self, b))
    assert run("--max_steps", "3") == 0 and modes == [True] * 3
    err = capsys.readouterr().err
    assert "step 2 is not saved: logs/44k/G_2.pth: could not be written (the disk is full)" in err
    assert sorted(path.name for path in Path("logs/44k").glob("G_?.pth")) == ["G_1.pth", "G_3.pth"]


def test_the_last_checkpoint_must_be_written(workspace, monkeypatch):
    from modules.training import resume

    def save_together(contents):
        raise OSError(28, "No space left on device", str(next(iter(contents))))

    monkeypatch.setattr(resume, "save_together", save_together)
    with pytest.raises(UserError, match=r"step 1 is not saved: .*the disk is full.* there is no checkpoint"):
        run("--max_steps", "1")


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), MemoryError(), RuntimeError("DataLoader worker (pid 7) is killed")]
)
def test_whatever_ends_a_training_what_was_trained_is_saved_first(workspace, monkeypatch, error):
    original, steps = VitsStep.run, []

    def step(self, batches):
        steps.append(1)
        if len(steps) == 3:
            raise error
        return original(self, batches)

    monkeypatch.setattr(VitsStep, "run", step)
    with pytest.raises((OSError, UserError)):
        run("--max_steps", "9")
    assert load_weights("logs/44k/G_2.pth")["step"] == 2


def test_tensorboard_that_fails_ends_no_training(workspace, capsys, monkeypatch):
    from torch.utils import tensorboard

    class Broken(tensorboard.SummaryWriter):
        def add_scalar(self, *_):
            raise OSError(28, "No space left on device")

    change_config(eval_interval=1)
    monkeypatch.setattr(tensorboard, "SummaryWriter", Broken)
    assert run("--max_steps", "2") == 0
    err = capsys.readouterr().err
    assert err.count("no more for TensorBoard (the disk is full); training goes on without") == 2  # its two folders
    assert Path("logs/44k/G_2.pth").is_file() and Path("logs/44k/scores.csv").is_file()


@posix
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_thread_that_writes_for_tensorboard_may_die(workspace, capsys):
    from modules.training.tensorboard import Events

    events = Events(Path("logs/44k"), 0)
    events._writer.file_writer.event_writer._async_writer._writer.write = lambda _: 1 / 0
    for step in range(50):
        events.add_scalar("a", step, step)
        time.sleep(0.002)
    events.flush()
    events.close()
    assert events._writer is None and "Traceback" not in capsys.readouterr().err


def test_tensorboard_that_cannot_be_imported_ends_no_training(workspace, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert run("--max_steps", "1") == 0
    assert "no more for TensorBoard" in caplog.text and Path("logs/44k/G_1.pth").is_file()


def test_the_best_voice_of_a_run_that_was_ahead_is_set_aside(workspace, caplog):
    change_config(eval_interval=1)
    assert run("--max_steps", "3") == 0
    folder = Path("logs/44k")
    best, rows = (folder / "G_best.pth").read_bytes(), (folder / "scores.csv").read_bytes()
    assert load_weights(folder / "G_best.pth")["step"] > 1
    for path in [*folder.glob("[GD]_2.pth"), *folder.glob("[GD]_3.pth")]:
        path.unlink()
    caplog.clear()
    assert run("--max_steps", "2") == 0
    assert (folder / "G_best.pth.bak-1").read_bytes() == best and (folder / "scores.csv.bak-1").read_bytes() == rows
    said = "G_best.pth is of a step that this run has not reached; kept as G_best.pth.bak-1 and scores.csv.bak-1"
    assert caplog.text.count(said) == 1
    assert run("--max_steps", "3") == 0 and not list(folder.glob("*.bak-2")), "and its own best is replaced"


def test_starting_afresh_in_an_old_folder_keeps_its_best_voice(workspace, caplog):
    Path("logs/44k").mkdir(parents=True)
    Path("logs/44k/G_best.pth").write_bytes(b"somebody's")
    change_config(eval_interval=1)
    assert run("--max_steps", "1") == 0
    assert Path("logs/44k/G_best.pth.bak-1").read_bytes() == b"somebody's" and "kept as G_best.pth.bak-1" in caplog.text


def test_another_config_in_the_runs_folder_gets_another_name(workspace, capsys):
    Path("logs/44k").mkdir(parents=True)
    Path("logs/44k/config.json").write_text("my notes")
    assert run("--max_steps", "1") == 0
    assert Path("logs/44k/config.json.bak-1").read_text() == "my notes"
    assert "config.json.bak-1" in capsys.readouterr().err
    assert run("--max_steps", "2") == 0 and not Path("logs/44k/config.json.bak-2").exists()


def test_the_config_that_was_loaded_is_the_one_that_is_kept(workspace, monkeypatch):
    """An editor that saves while training starts changes nothing of it."""
    content = Path("configs/config.json").read_bytes()

    def find_scorer(_):
        Path("configs/config.json").write_text("edited meanwhile")

    monkeypatch.setattr(train, "_find_scorer", find_scorer)
    assert run("--max_steps", "1") == 0
    assert Path("logs/44k/config.json").read_bytes() == content
