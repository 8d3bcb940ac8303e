"""Ranks find each other, tell each other what they must, and end together."""

import functools
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import rank_work
import torch
from warm_start import Script, start

from modules.device import choose_device
from modules.errors import UsageError, UserError
from modules.training import distributed
from modules.training import launch as launching
from modules.training.distributed import Group, join, meet
from modules.training.guards import StopRequest
from modules.training.launch import launch, parse_gpus, training_devices

SCRIPT = Path(rank_work.__file__)
CPU = torch.device("cpu")
PLACES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
posix_only = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")


@pytest.fixture(autouse=True)
def outside_of_any_launch(monkeypatch):
    """No rank waits for another longer than two minutes, and the tests themselves are no rank."""
    for name in PLACES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SVC_TIMEOUT_SECONDS", "120")


@pytest.fixture
def gpus(monkeypatch):
    """Gives this machine so many GPUs."""
    return lambda count: monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def launch_two(folder: Path, word: str) -> int:
    return launch(functools.partial(getattr(rank_work, word), folder), [CPU, CPU])


def start_launcher(folder: Path, word: str) -> Script | subprocess.Popen:
    """A launch in a process group of its own, as a terminal makes it, when its ranks are ready."""
    process = start(
        [SCRIPT, folder, word, "launch"],
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={"TMPDIR": str(folder)},  # a killed one leaves its folder behind
    )
    while not all((folder / f"ready{rank}").exists() for rank in range(2)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return process


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


def read(path: Path):
    return json.loads(path.read_text("utf-8"))


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # an orphan that has ended may wait as a zombie for its new parent
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def check_answers(folder: Path) -> None:
    """What `rank_work.meet` has to find out."""
    for rank in range(2):
        answers = read(folder / f"answers{rank}")
        assert answers["rank"] == [rank, 2, rank == 0, "cpu"]
        assert answers["lowest"] == [4, 2**40]
        for seed, states in enumerate(answers["states"]):
            distributed.seed_all(seed)
            assert states == {name: state.tolist() for name, state in distributed.random_state(CPU).items()}
        own, other = ("UserError", "FailedElsewhere") if rank == 0 else ("FailedElsewhere", "UserError")
        assert answers["raised"] == ["", own, other, own], "one rank says what is wrong"
        assert answers["the late one was waited for"]


def test_launched_ranks_find_each_other_and_get_the_same_answers(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert launch_two(tmp_path, "meet") == 0
    check_answers(tmp_path)
    assert read(tmp_path / "answers0")["threads"] == max(1, (os.cpu_count() or 1) // 2)


@pytest.mark.slow  # launched ranks meet in the same way
def test_ranks_of_torchrun_find_each_other_and_get_the_same_answers(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    places = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [
        start([SCRIPT, tmp_path, "meet"], env={**places, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    assert [process.wait(120) for process in ranks] == [0, 0]
    check_answers(tmp_path)


def test_a_rank_that_fails_ends_the_others_and_gives_its_exit_code(tmp_path, caplog, capfd):
    assert launch_two(tmp_path, "fail") == 2
    assert not caplog.records, "rank 1 has said what is wrong"
    err = capfd.readouterr().err
    assert err.count("one thing is wrong") == 1 and "Traceback" not in err


@posix_only
def test_a_rank_that_is_killed_ends_the_others_with_code_1_though_one_ignores_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(launching, "GRACE_SECONDS", 0.5)
    assert launch_two(tmp_path, "die") == 1
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and "rank 1 (cpu) was ended by signal 9" in said[0] and "the others are killed" in said[1]


@posix_only
def test_sigterm_to_the_launcher_lets_every_rank_save(tmp_path):
    launcher = start_launcher(tmp_path, "train")
    launcher.terminate()
    _, err = launcher.communicate(timeout=60)
    assert launcher.returncode == 130, err
    assert all((tmp_path / f"saved{rank}").exists() for rank in range(2)) and "Traceback" not in err


@posix_only
def test_ctrl_c_asks_every_rank_to_stop_and_the_second_kills(tmp_path):
    launcher = start_launcher(tmp_path, "go_on")
    os.killpg(launcher.pid, signal.SIGINT)  # as the terminal does it: the ranks get it too
    wait_for(lambda: all((tmp_path / f"asked{rank}").exists() for rank in range(2)))
    assert launcher.poll() is None and all(runs(read(tmp_path / f"ready{rank}")) for rank in range(2))
    os.killpg(launcher.pid, signal.SIGINT)
    _, err = launcher.communicate(timeout=60)
    assert launcher.returncode == 130 and "interrupted twice" in err and "Traceback" not in err
    assert not any(runs(read(tmp_path / f"ready{rank}")) for rank in range(2))


@posix_only
def test_ranks_of_a_killed_launcher_end_with_it(tmp_path):
    launcher = start_launcher(tmp_path, "train")
    launcher.kill()
    launcher.communicate(timeout=60)
    wait_for(lambda: not any(runs(read(tmp_path / f"ready{rank}")) for rank in range(2)), seconds=30)
    assert not list(tmp_path.glob("saved*"))


@pytest.mark.parametrize(
    "codes, code, said",
    [
        ([0, 0], 0, None),
        ([130, 130], 130, None),
        ([75, 2], 2, None),  # lost its peer; that one has said why
        ([2, 75], 2, None),
        ([75, 1], 1, "rank 1 (cpu) ended with exit code 1"),
        ([75, -11], 1, "rank 1 (cpu) was ended by signal 11"),
        ([0, 75], 1, None),
        ([7, 2], 7, "rank 0 (cpu) ended with exit code 7"),
    ],
)
def test_the_exit_code_is_that_of_the_rank_that_has_more_to_say_than_a_lost_peer(caplog, codes, code, said):
    ranks = [SimpleNamespace(exitcode=code) for code in codes]
    assert launching._watch(ranks, [CPU, CPU], [], StopRequest()) == code
    assert [said in message for message in caplog.messages] == ([True] if said else [])


def test_ranks_that_do_not_meet_are_told_so_in_one_line(tmp_path, monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "SVC_TIMEOUT_SECONDS": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="rank 1 of 2 did not meet the others at None:None") as caught:
        join("cpu")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="meeting point") as caught:
        meet(1, 2, CPU, tmp_path / "meeting point")
    assert "\n" not in str(caught.value)
    assert not torch.distributed.is_initialized()
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(UserError, match="WORLD_SIZE: found 'two'"):
        join(None)


def test_a_group_of_one_needs_no_process_group(monkeypatch):
    group = join("cpu")
    assert group == Group() and group.is_main and not torch.distributed.is_initialized()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join("cpu") == group and not torch.distributed.is_initialized()
    assert group.lowest(3) == 3
    [states] = distributed.gather_random_states(group)
    assert torch.equal(states["cpu"], torch.get_rng_state())
    group.barrier()
    group.leave()


def test_each_local_rank_of_torchrun_has_its_own_device(monkeypatch, gpus):
    monkeypatch.setenv("LOCAL_RANK", "1")
    device = distributed._device_of_local_rank
    gpus(2)
    assert device(None) == device("cuda") == device("cuda:1") == torch.device("cuda:1") and device("cpu") == CPU
    with pytest.raises(UsageError, match="each rank of torchrun has its own device"):
        device("cuda:0")
    gpus(1)
    with pytest.raises(UsageError, match="local rank 1 has no GPU, this machine has 1"):
        device(None)
    gpus(0)
    assert device(None) == CPU


def test_ranks_on_gpus_talk_over_nccl_each_from_its_own(monkeypatch, gpus):
    gpus(2)
    for name, value in {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    chosen, asked = [], {}
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda backend, **rest: asked.update(rest, backend=backend)
    )
    device = torch.device("cuda:1")
    assert join(None) == Group(3, 4, device) and chosen == [device]
    assert asked["backend"] == "cpu:gloo,cuda:nccl" and asked["timeout"].seconds == 120
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)  # as on Windows
    assert join("cuda").device == device and asked["backend"] == "gloo"


def test_gpus_are_named_by_their_indices(gpus):
    gpus(3)
    assert parse_gpus(None) is None
    assert parse_gpus("0, 2") == [torch.device("cuda:0"), torch.device("cuda:2")]
    assert parse_gpus("cpu,cpu") == [CPU, CPU]


@pytest.mark.parametrize(
    "text, count, said",
    [
        ("0,3", 3, "no GPU '3'; this machine has 0, 1, 2"),
        ("0,-1", 1, "no GPU '-1'; this machine has 0"),
        ("1,1", 3, "named twice"),
        ("", 3, "no GPU ''"),
        ("0,cpu", 3, "no GPU 'cpu'"),
        ("0", 0, "there is no CUDA GPU here"),
    ],
)
def test_gpus_that_are_not_there_are_refused(gpus, text, count, said):
    gpus(count)
    with pytest.raises(UsageError, match=said):
        parse_gpus(text)


def test_all_gpus_train_unless_a_flag_says_otherwise(gpus):
    gpus(2)
    assert training_devices(None, None) == training_devices("0,1", "cuda") == [torch.device("cuda", i) for i in (0, 1)]
    assert training_devices("1", None) == [torch.device("cuda:1")]
    assert training_devices(None, "cpu") == [CPU]
    with pytest.raises(UsageError, match="contradict"):
        training_devices("0,1", "cpu")
    gpus(0)
    assert training_devices(None, "auto") == [choose_device(None)]
    assert training_devices("cpu,cpu", "cpu") == [CPU, CPU]
