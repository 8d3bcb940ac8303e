"""Starts the ranks of a training on the devices of one machine, and ends them all with one exit code."""

import contextlib
import logging
import math
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from torch import multiprocessing

from modules.cli import run
from modules.device import choose_device, keep_freed_memory
from modules.errors import UsageError
from modules.training.distributed import ORDERLY_SECONDS, FailedElsewhere, Group, is_rank, join, meet, report_lost_peer
from modules.training.guards import StopRequest

logger = logging.getLogger(__name__)

STOP_SECONDS = 600  # what ranks have to finish their step and save, when told to stop
GRACE_SECONDS = 10  # what ranks have to end, when another has failed and there is nothing to wait for
_POLL_SECONDS = 0.1

_CPU = torch.device("cpu")
_USER_ERROR, _LOST_PEER, _INTERRUPTED = 2, 75, 130
# How a rank ends by a SIGTERM that it is too young to catch; on Windows by abort() or STATUS_CONTROL_C_EXIT.
_TERMINATED = {-signal.SIGTERM, *((3, 0xC000013A) if os.name == "nt" else ())}


def run_on_devices(work: Callable[[Group], int], gpus: str | None, device_name: str | None) -> int:
    """Does `work`, which returns the exit code, here, where one device is enough or torchrun has started this process;
    else in one new process for each device. Returns the exit code; 1 where another rank has failed and says why."""
    if not is_rank():
        devices = training_devices(gpus, device_name)
        if len(devices) > 1:
            return launch(work, devices)
        device_name = str(devices[0])
    code = _work_in(join(device_name), work)
    return 1 if code == _LOST_PEER else code


def training_devices(gpus: str | None, device_name: str | None) -> list[torch.device]:
    """The devices to train on: those of the flags, else every GPU, else the best that there is."""
    named = device_name not in (None, "", "auto")
    chosen = parse_gpus(gpus)
    if chosen is not None:
        if named and device_name != chosen[0].type:
            raise UsageError(f"--gpus {gpus} and --device {device_name} contradict each other; give one of them")
        return chosen
    if named:
        return [choose_device(device_name)]
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())] or [choose_device(None)]


def parse_gpus(text: str | None) -> list[torch.device] | None:
    """The devices of a flag `--gpus 0,2`, or of "cpu,cpu" (ranks on the CPU, for trying it out); None for None."""
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if set(words) == {"cpu"}:
        return [_CPU] * len(words)
    known = [str(index) for index in range(torch.cuda.device_count())]
    if not known:
        raise UsageError(f"--gpus {text}: there is no CUDA GPU here; leave --gpus out")
    for word in words:
        if word not in known:
            raise UsageError(f"--gpus {text}: there is no GPU {word!r}; this machine has {', '.join(known)}")
    if len(set(words)) < len(words):
        raise UsageError(f"--gpus {text}: a GPU is named twice; this machine has {', '.join(known)}")
    return [torch.device("cuda", int(word)) for word in words]


def launch(work: Callable[[Group], int], devices: list[torch.device]) -> int:
    """Does `work` in one new process for each device at the same time, until all have ended.

    Ctrl-C and SIGTERM reach each rank as one SIGTERM, after which it finishes its step and saves; a second Ctrl-C kills
    them. When a rank fails, the others are ended too. Returns the exit code: 0 when all ranks are done, 130 when they
    were stopped, else that of the rank that failed first (1 if a signal ended it).
    """
    ranks: list[BaseProcess] = []
    with tempfile.TemporaryDirectory(prefix="svc-", ignore_cleanup_errors=True) as folder, StopRequest() as stop:
        try:
            orders = _start(work, devices, Path(folder) / "rendezvous", ranks)
            return _watch(ranks, devices, orders, stop)
        except KeyboardInterrupt:
            logger.error("interrupted twice: the ranks are killed; what they have not saved is lost")
            return _INTERRUPTED
        finally:
            _kill(ranks)


def _start(
    work: Callable[[Group], int], devices: list[torch.device], rendezvous: Path, ranks: list[BaseProcess]
) -> list[Connection]:
    """Adds the started processes to `ranks`; returns where each hears from this one."""
    spawn, orders = multiprocessing.get_context("spawn"), []
    # Ranks inherit it: a terminal's Ctrl-C goes to them as well, and they must not die of it while they start.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for rank in range(len(devices)):
            theirs, ours = spawn.Pipe(duplex=False)
            process = spawn.Process(target=_rank, args=(rank, devices, work, rendezvous, theirs))
            process.start()
            theirs.close()
            ranks.append(process)
            orders.append(ours)
    finally:
        signal.signal(signal.SIGINT, handler)
    return orders


def _rank(
    rank: int, devices: list[torch.device], work: Callable[[Group], int], rendezvous: Path, orders: Connection
) -> None:
    """The main function of a new process; ends it with the exit code of the work."""
    for name in ("SIGINT", "SIGHUP"):  # which a terminal sends to all; the launcher says what is to be done
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_obey, args=(orders,), daemon=True).start()
    if devices[rank].type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // len(devices)))
    run(lambda _: _work_in(meet(rank, len(devices), devices[rank], rendezvous), work))


def _obey(orders: Connection) -> None:
    """Sends this process a SIGTERM when the launcher says so, and ends it at once where the launcher was killed."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            orders.recv_bytes()
            signal.raise_signal(signal.SIGTERM)
    os._exit(1)


def _work_in(group: Group, work: Callable[[Group], int]) -> int:
    if group.device.type == "cpu":
        keep_freed_memory()
    try:
        with report_lost_peer(group):
            code = work(group)
        group.leave(ORDERLY_SECONDS)
        return code
    except FailedElsewhere:
        return _LOST_PEER
    finally:
        group.leave()


def _watch(ranks: list[BaseProcess], devices: list[torch.device], orders: list[Connection], stop: StopRequest) -> int:
    """Waits until the last rank has ended; returns the exit code of the launch."""
    failed, is_told, is_killed, deadline = None, False, False, math.inf
    while True:
        codes = [rank.exitcode for rank in ranks]
        if failed is None and not is_killed and not (is_told and _TERMINATED.intersection(codes)):
            failed = next((n for n, code in enumerate(codes) if code not in (None, 0, _LOST_PEER, _INTERRUPTED)), None)
            if failed is not None:
                _report(failed, devices[failed], codes[failed])
        if None not in codes:
            break
        if failed is not None or _LOST_PEER in codes:
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        elif stop.requested or _INTERRUPTED in codes:  # or somebody told a rank to stop, which tells the others
            deadline = min(deadline, time.monotonic() + STOP_SECONDS)
        if (stop.requested or failed is not None) and not is_told:
            is_told = True
            for order in orders:
                with contextlib.suppress(OSError):  # that one has ended
                    order.send_bytes(b"stop")
        if time.monotonic() > deadline:
            logger.error("not all ranks ended in time; the others are killed")
            is_killed = True
            _kill(ranks)
        wait([rank.sentinel for rank in ranks if rank.exitcode is None], _POLL_SECONDS)
    if failed is not None:
        return max(1, codes[failed])
    if is_killed:
        return 1
    return _INTERRUPTED if {_INTERRUPTED, *_TERMINATED}.intersection(codes) else int(_LOST_PEER in codes)


def _report(rank: int, device: torch.device, code: int) -> None:
    if code < 0:
        text = (
            "rank %d (%s) was ended by signal %d; for 9 that may be a lack of memory: close other programs or lower "
            "train.batch_size. Then run the same command again: it goes on from the last checkpoint."
        )
        logger.error(text, rank, device, -code)
    elif code != _USER_ERROR:  # of which it has said all there is to say
        logger.error("rank %d (%s) ended with exit code %d and so do all; what it said is above", rank, device, code)


def _kill(ranks: list[BaseProcess]) -> None:
    for rank in ranks:
        rank.kill()
    for rank in ranks:
        rank.join()
