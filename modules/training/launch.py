"""Starts the ranks of a training on the devices of one machine: a small torchrun that ends in one line and one code."""

import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from modules.device import choose_device
from modules.errors import UsageError, UserError
from modules.training.distributed import Group, is_rank, join
from modules.training.guards import StopRequest
from modules.training.sharing import FailedElsewhere, losing_no_other

logger = logging.getLogger(__name__)

STOP_SECONDS = 600  # what ranks have to finish their step and save, when told to stop
GRACE_SECONDS = 10  # what ranks have to end, when another has failed and there is nothing to wait for
_SETTLE_SECONDS = 1  # after a failure: the others may just be telling theirs, and one of them may say more
_POLL_SECONDS = 0.1

_CPU = torch.device("cpu")
_USER_ERROR, _INTERRUPTED = 2, 130
# How a rank ends by a stop: 130 where it saved; else by SIGTERM, for which Windows has 3 and STATUS_CONTROL_C_EXIT.
_STOPPED = frozenset((_INTERRUPTED, -signal.SIGTERM, *((3, 0xC000013A) if os.name == "nt" else ())))


def on_devices(
    script: Path, argv: list[str], gpus: str | None, device_name: str | None, work: Callable[[Group], int]
) -> int:
    """Does the work of a training script: here, where this is one of its ranks or one device is enough; else it starts
    the script once for each device.

    Args:
        script: a Python file that calls this function.
        argv: its arguments.
        gpus: as `parse_gpus`.
        device_name: as `choose_device`.
        work: what a rank does; returns the exit code.

    Returns:
        The exit code; 1 where another rank has failed and says why.

    Raises:
        UserError: of the work, or as `training_devices` and `join`.
    """
    if not is_rank():
        devices = training_devices(gpus, device_name)
        if wants_launch(devices):
            return launch(script, argv, devices)
        device_name = str(devices[0])
    group = join(device_name)
    try:
        with losing_no_other(group):
            code = work(group)
    except FailedElsewhere:
        code = 1
    except UserError:
        group.leave()
        raise
    group.leave()
    return code


def training_devices(gpus: str | None, device_name: str | None) -> list[torch.device]:
    """The devices to train on: those of the flags, else every GPU, else the best that there is.

    Args:
        gpus: as `parse_gpus`.
        device_name: as `choose_device`.

    Raises:
        UsageError: there is no such device, or the flags contradict each other.
    """
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
    """The devices of a flag `--gpus 0,2`; None where it is not given.

    Args:
        text: indices with commas between; or "cpu,cpu": ranks on the CPU, for trying it out.

    Raises:
        UsageError: not such a list, an index twice, or no such GPU; the text lists what there is.
    """
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


def wants_launch(devices: list[torch.device]) -> bool:
    """Whether ranks have yet to be started for these devices."""
    return len(devices) > 1 and not is_rank()


def launch(script: Path, argv: list[str], devices: list[torch.device]) -> int:
    """Runs `script` once for each device at the same time, until all have ended; the script calls `join`.

    Ctrl-C and SIGTERM become one SIGTERM to each rank, which finishes its step and saves; a second Ctrl-C kills them.
    When a rank fails, the others are ended too.

    Args:
        script: a Python file.
        argv: its arguments.
        devices: one for each rank, in their order.

    Returns:
        The exit code: 0 when all ranks are done, 130 when they were stopped, else that of the rank that failed first (1
        if a signal ended it).
    """
    with tempfile.TemporaryDirectory(prefix="svc-", ignore_cleanup_errors=True) as folder, StopRequest() as stop:
        ranks = _Ranks(devices, stop)
        try:
            for rank in range(len(devices)):
                ranks.start([sys.executable, str(script), *argv], rank, Path(folder) / "rendezvous")
            return ranks.wait()
        except KeyboardInterrupt:
            logger.error("interrupted twice: the ranks are killed; what they have not saved is lost")
            return _INTERRUPTED
        finally:
            ranks.kill()


class _Ranks:
    """The processes of one launch."""

    def __init__(self, devices: list[torch.device], stop: StopRequest) -> None:
        self._devices, self._stop = devices, stop
        self._processes: list[subprocess.Popen] = []
        self._told = self._killed = False
        self._failed: int | None = None  # the rank that is to blame
        self._deadline = math.inf

    def start(self, command: list[str], rank: int, rendezvous: Path) -> None:
        """Starts one, out of reach of the terminal: its Ctrl-C would come in addition to our SIGTERM."""
        device, world_size = self._devices[rank], len(self._devices)
        environment = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "SVC_DEVICE": str(device),
            "SVC_RENDEZVOUS": str(rendezvous),
            "SVC_LAUNCHER": str(os.getpid()),
        }
        if device.type == "cpu":
            environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // world_size)))
        apart = (
            {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if os.name == "nt" else {"start_new_session": True}
        )
        self._processes.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, **apart))

    def wait(self) -> int:
        """Watches over them until the last has ended; returns the exit code of the launch."""
        while None in (codes := self._codes()):
            if self._stop.requested:
                self._tell(STOP_SECONDS)
            elif _INTERRUPTED in codes:  # somebody told a rank to stop, and it tells the others through `Group.any`
                self._limit(STOP_SECONDS)
            if _failures(codes):
                self._blame()
                self._tell(GRACE_SECONDS)
            if time.monotonic() > self._deadline:
                logger.error("not all ranks ended in time; the others are killed")
                self.kill()
            time.sleep(_POLL_SECONDS)
        self._blame()
        codes = self._codes()
        if self._failed is not None:
            return max(1, codes[self._failed])
        if self._killed:
            return 1
        return _INTERRUPTED if _STOPPED.intersection(codes) else 0

    def kill(self) -> None:
        """Ends those that are left, at once."""
        for process in self._processes:
            if process.poll() is None:
                self._killed = True
                process.kill()
        for process in self._processes:
            process.wait()

    def _codes(self) -> list[int | None]:
        """The exit code of each that has ended."""
        return [process.poll() for process in self._processes]

    def _limit(self, seconds: float) -> None:
        """Leaves them no more than that from now on."""
        self._deadline = min(self._deadline, time.monotonic() + seconds)

    def _tell(self, seconds: float) -> None:
        """Sends SIGTERM, once however often this is called."""
        self._limit(seconds)
        if not self._told:
            self._told = True
            for process in self._processes:
                process.send_signal(signal.CTRL_BREAK_EVENT if os.name == "nt" else signal.SIGTERM)

    def _blame(self) -> None:
        """Notes and says which rank failed first, if one did.

        A dead rank breaks the connections of the others, which soon end with code 1. So of those that
        failed at about the same time, the first with another code is the cause, above all one that could say it.
        """
        if self._failed is not None or self._killed or not _failures(self._codes()):
            return
        settled = time.monotonic() + _SETTLE_SECONDS
        while not self._told and None in self._codes() and time.monotonic() < settled:
            time.sleep(_POLL_SECONDS)
        codes = self._codes()
        if self._told and _STOPPED.intersection(codes) - {_INTERRUPTED}:
            return  # a rank ended by our SIGTERM, being too young to catch it; what became of others follows from that
        self._failed = min(_failures(codes), key=lambda rank: (codes[rank] == 1, codes[rank] != _USER_ERROR))
        code = codes[self._failed]
        name = f"rank {self._failed} ({self._devices[self._failed]})"
        if code < 0:
            logger.error(
                "%s was ended by signal %d; for 9 that may be a lack of memory: close other programs or lower "
                "train.batch_size. Then run the same command again: it goes on from the last checkpoint.",
                name,
                -code,
            )
        elif code != _USER_ERROR:  # of which it has said all there is to say
            logger.error("%s ended with exit code %d and so do all; what it said is above", name, code)


def _failures(codes: list[int | None]) -> list[int]:
    """The ranks whose exit code is that of an error."""
    return [rank for rank, code in enumerate(codes) if code not in (None, 0, _INTERRUPTED)]
