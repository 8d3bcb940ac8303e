"""train.py and train_diff.py on two ranks as a user meets them, and what a rehearsal tells."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_diffusion import make_diffusion_workspace
from tiny_training import SMALL_DECODER
from tiny_voices import make_workspace
from warm_start import finish

import train
import train_diff
from modules.errors import UsageError
from modules.weights.checkpoint import load_weights, save_weights

ROOT = Path(__file__).resolve().parent.parent
TWO = ("--gpus", "cpu,cpu")


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SVC_TIMEOUT_SECONDS", "120")
    make_workspace(tmp_path, model=SMALL_DECODER, log_interval=1, batch_size=1)
    return tmp_path


def run(model: str, *flags: str) -> subprocess.CompletedProcess:
    return finish([ROOT / "train.py", "-m", model, *TWO, *flags])


def names(model: str) -> list[str]:
    return sorted(path.name for path in Path("logs", model).glob("[GD]_[0-9]*.pth"))


def ranks_of(process: subprocess.Popen) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def start_and_wait(model: str, text: str) -> subprocess.Popen:
    """A training without end, when its log has `text`."""
    command = [sys.executable, ROOT / "train.py", "-m", model, *TWO]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    log, end = Path("logs", model, "train.log"), time.monotonic() + 300
    while not (log.is_file() and text in log.read_text("utf-8")):
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.05)
    return process


@pytest.mark.slow
def test_two_ranks_train_one_voice_and_go_on_exactly_where_they_stopped(workspace):
    config = json.loads(Path("configs/config.json").read_text("utf-8"))
    config["train"] |= {"eval_interval": 1, "keep_ckpts": 0}
    Path("configs/config.json").write_text(json.dumps(config), "utf-8")
    whole = run("whole", "--max_steps", "3")
    assert whole.returncode == 0, whole.stderr
    assert "a step sees 2 clips: train.batch_size 1, train.accumulate 1, 2 processes" in whole.stderr
    assert "2 steps per epoch" in whole.stderr and whole.stderr.count("step 3, epoch 2") == 1, "one rank speaks"
    assert whole.stdout.count("Next: python inference_main.py") == 1
    Path("logs/resumed").mkdir()
    for prefix in "GD":  # as a run has it that was killed in its second step
        shutil.copyfile(f"logs/whole/{prefix}_1.pth", f"logs/resumed/{prefix}_1.pth")
    resumed = run("resumed", "--max_steps", "3")
    assert resumed.returncode == 0, resumed.stderr
    for prefix in "GD":
        wanted, found = (load_weights(f"logs/{model}/{prefix}_3.pth") for model in ("whole", "resumed"))
        assert all(torch.equal(found["model"][name], wanted["model"][name]) for name in wanted["model"])
        assert len(found["random_of_other_ranks"]) == 1
        assert not torch.equal(found["random"]["cpu"], found["random_of_other_ranks"][0]["cpu"])


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the ranks in /proc")
def test_a_stop_saves_once_and_a_killed_rank_ends_the_run_with_an_error(workspace):
    process = start_and_wait("44k", "step 2, ")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130 and err.count("stopped at step") == 1 and "Traceback" not in err, err
    assert "run the same command again" in err and len(names("44k")) == 2
    process = start_and_wait("44k", "going on from")
    ranks = ranks_of(process)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    _, err = process.communicate(timeout=60)  # rank 0 would train on for hours
    assert process.returncode == 1
    assert "rank 1 (cpu) was ended by signal 9" in err and "Traceback" not in err, err


def test_a_mistake_is_one_line_also_where_only_the_main_rank_reads(workspace):
    Path("pretrain/speaker_encoder").mkdir(parents=True)
    Path("pretrain/speaker_encoder/pretrained.pt").write_bytes(b"broken")
    found = run("44k")
    assert found.returncode == 2 and found.stderr.count("error: ") == 1 and "Traceback" not in found.stderr
    assert "pretrained.pt" in found.stderr


@pytest.mark.slow  # the launcher and the loop are those of the voice model, which the first test trains
def test_the_diffusion_model_trains_on_two_ranks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_diffusion_workspace(tmp_path)
    found = finish([ROOT / "train_diff.py", *TWO, "--max_steps", "1"])
    assert found.returncode == 0, found.stderr
    assert "a step sees 4 clips: train.batch_size 2, 2 processes" in found.stderr
    assert found.stdout.count("Next: ") == 1 and Path("logs/44k/diffusion/model_1.pt").is_file()


def test_a_rehearsal_tells_what_a_night_would_bring_and_writes_nothing(workspace, capsys):
    before = sorted(workspace.rglob("*"))
    assert train.main(["-m", "44k", "-d", "cpu", "--dry-run"]) == 0
    err = capsys.readouterr().err
    assert "logs/44k holds no checkpoint to go on from: it would begin at step 0" in err
    assert "M parameters" in err and re.search(r"memory at its highest: [\d.]+ GB", err)
    assert re.search(r"a step takes [\d.]+ s, an epoch [\d.]+ s, the \d+0000 steps that are left [\d.]+ (h|min)", err)
    assert sorted(workspace.rglob("*")) == before
    assert train.main(["-m", "44k", "-d", "cpu", "--max_steps", "1"]) == 0
    capsys.readouterr()
    content = Path("logs/44k/G_1.pth").read_bytes()
    workspace_config = Path("configs/config.json")
    config = json.loads(workspace_config.read_text("utf-8"))
    config["train"] |= {"adversarial_from": 2, "steady_steps": 3}  # the old name
    workspace_config.write_text(json.dumps(config), "utf-8")
    assert train.main(["-m", "44k", "-d", "cpu", "--dry_run", "--max_steps", "9"]) == 0
    err = capsys.readouterr().err
    assert "the 8 steps that are left" in err
    assert (
        "discriminators join in at step 2" in err and "upsampling is held at linear interpolation until step 3" in err
    )
    assert "going on from logs/44k/G_1.pth: step 1, epoch 1" in err and "nothing was written" in err
    assert Path("logs/44k/G_1.pth").read_bytes() == content
    bent = load_weights("logs/44k/G_1.pth")
    bent["model"]["dec.ups.0.weight_v"] += torch.randn_like(bent["model"]["dec.ups.0.weight_v"])
    save_weights("logs/44k/G_1.pth", bent)
    assert train.main(["-m", "44k", "-d", "cpu", "--dry_run", "--max_steps", "9"]) == 0
    err = capsys.readouterr().err
    assert "train.linear_upsampling_steps has no effect" in err and "is held at linear" not in err


@pytest.mark.parametrize(
    "precision, dtype", [("bf16", "torch.bfloat16"), ("fp16", "torch.float32"), (None, "torch.float32")]
)
def test_the_precision_of_a_run_can_be_given(workspace, capsys, precision, dtype):
    flags = [] if precision is None else ["--precision", precision]
    assert train.main(["-m", "44k", "-d", "cpu", "--max_steps", "1", *flags]) == 0
    assert load_weights("logs/44k/G_1.pth")["scaler"]["precision"] == dtype
    assert ("fp16 needs CUDA" in capsys.readouterr().err) == (precision == "fp16")


def test_fp32_on_request_shortens_no_factor(workspace):
    for precision, allowed in (("fp32", False), ("tf32", True)):
        assert train.main(["-m", precision, "-d", "cpu", "--max_steps", "1", "--precision", precision]) == 0
        assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == allowed


@pytest.mark.parametrize("script", [train, train_diff])
def test_devices_that_are_not_there_are_refused(workspace, script):
    flags = ["-m", "44k"] if script is train else []
    make_diffusion_workspace(workspace)
    for wrong in (["--gpus", "0,7"], ["--gpus", "cpu,cpu", "-d", "cuda"]):
        with pytest.raises(UsageError, match="--gpus"):
            script.main([*flags, *wrong])


def test_auto_batch_on_a_cpu_is_refused_before_anything_is_trained(workspace):
    with pytest.raises(UsageError, match="--auto_batch needs a CUDA GPU"):
        train.main(["-m", "44k", "-d", "cpu", "--auto_batch"])
    assert not names("44k")
