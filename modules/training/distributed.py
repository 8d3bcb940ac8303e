"""The processes of a training on several devices: `join` lets each find the others.

A process is a rank. Ranks are started by `launch.py` (one machine) or by torchrun (one or several machines). The
network is wrapped, and the data divided, elsewhere; a `Group` only says who one is and carries small messages.
"""

import datetime
import os
import signal
import threading
import time
from dataclasses import dataclass

import torch
from torch import distributed

from modules.device import choose_device
from modules.errors import UsageError, UserError

_TIMEOUT_SECONDS = 1800  # how long a rank waits for the others; SVC_TIMEOUT_SECONDS overrides it
_LEAVE_SECONDS = 5
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Group:
    """Who this process is among those that train together, and what it can ask them.

    Every method but `leave` waits until all ranks call it. Messages go from CPU to CPU, so that none waits for a GPU. A
    group of one needs no process group.

    Args:
        rank: number of this process, from 0.
        world_size: number of processes.
        device: where this process computes.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = _CPU

    @property
    def is_main(self) -> bool:
        """Whether this is the one rank that logs and writes files."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on one rank at least."""
        return bool(self._reduced(torch.tensor(int(flag)), distributed.ReduceOp.MAX).item())

    def lowest(self, number: int) -> int:
        """The smallest `number` of all ranks."""
        return int(self._reduced(torch.tensor(number), distributed.ReduceOp.MIN).item())

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over the ranks of each element, without gradient.

        Args:
            values: any shape, the same on every rank, floating point. Half precision is summed in float32.
        """
        wide = values.detach().to(torch.promote_types(values.dtype, torch.float32))
        return (self._reduced(wide, distributed.ReduceOp.SUM) / self.world_size).to(values)

    def gather_bytes(self, state: torch.Tensor) -> list[torch.Tensor]:
        """The `state` of every rank, in the order of the ranks.

        Args:
            state: (N,) uint8 on the CPU, N being the same on every rank, like `torch.get_rng_state()`.
        """
        assert state.dtype == torch.uint8 and state.device.type == "cpu", (state.dtype, state.device)
        if self.world_size == 1:
            return [state.clone()]
        received = [torch.empty_like(state) for _ in range(self.world_size)]
        distributed.all_gather(received, state.contiguous())
        return received

    def barrier(self) -> None:
        """Returns when all ranks are here."""
        self.any(False)

    def leave(self) -> None:
        """Ends the process group, if there is one; without that its threads may abort a process that ends.

        After an error the end could wait for the dead: that is given a few seconds only.
        """
        if self.world_size > 1 and distributed.is_initialized():
            ending = threading.Thread(target=distributed.destroy_process_group, daemon=True)
            ending.start()
            ending.join(_LEAVE_SECONDS)

    def _reduced(self, values: torch.Tensor, operation: distributed.ReduceOp) -> torch.Tensor:
        if self.world_size > 1:
            values = values.to(_CPU, copy=True).contiguous()
            distributed.all_reduce(values, operation)
        return values


def is_rank() -> bool:
    """Whether this process was started as one of several, by `launch` or torchrun."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def alone(device: torch.device) -> Group:
    """A group of this process only."""
    return Group(device=device)


def join(device_name: str | None) -> Group:
    """The group that the environment describes, when all its ranks are there; else a group of this process only.

    Args:
        device_name: as `choose_device`. For a rank of `launch` it says nothing; for one of torchrun None, "cuda" or
            "cpu", since each rank gets its own.

    Raises:
        UsageError: a device that this rank cannot have.
        UserError: the ranks do not find each other.
    """
    if not is_rank():
        return alone(_made_current(choose_device(device_name)))
    rank, world_size = _number("RANK"), _number("WORLD_SIZE")
    launched = "SVC_RENDEZVOUS" in os.environ
    if launched:
        _obey_launcher()
    if world_size == 1:
        return alone(_made_current(choose_device(os.environ.get("SVC_DEVICE", device_name))))
    device = choose_device(os.environ["SVC_DEVICE"]) if launched else _device_of_local_rank(device_name)
    _made_current(device)
    if not distributed.is_available():
        raise UserError("this PyTorch is built without torch.distributed; train on one device, with --device")
    with_nccl = device.type == "cuda" and distributed.is_nccl_available()
    timeout = datetime.timedelta(seconds=_number("SVC_TIMEOUT_SECONDS", _TIMEOUT_SECONDS))
    try:
        store = distributed.FileStore(os.environ["SVC_RENDEZVOUS"], world_size) if launched else None
        if store is not None:
            store.set_timeout(timeout)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if with_nccl else "gloo",
            init_method=None if launched else "env://",
            store=store,
            rank=rank,
            world_size=world_size,
            timeout=timeout,
        )
    except (RuntimeError, ValueError, OSError) as error:
        place = os.environ["SVC_RENDEZVOUS"] if launched else f"{os.getenv('MASTER_ADDR')}:{os.getenv('MASTER_PORT')}"
        raise UserError(
            f"rank {rank} of {world_size} did not meet the others at {place} ({str(error).partition(chr(10))[0]}). "
            "Check that all ranks were started, that no other training uses this port, and that no firewall is between"
        ) from error
    return Group(rank, world_size, device)


def _made_current(device: torch.device) -> torch.device:
    """The device; events and streams that name none are this one's from now on."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name, default)
    try:
        return int(text)
    except (TypeError, ValueError):
        raise UserError(
            f"environment variable {name}: found {text!r}, expected a whole number, as torchrun sets it"
        ) from None


def _device_of_local_rank(name: str | None) -> torch.device:
    """The device of a rank of torchrun."""
    n_gpus = torch.cuda.device_count()
    if name == "cpu" or (name in (None, "", "auto") and n_gpus == 0):
        return _CPU
    index = _number("LOCAL_RANK")
    if name not in (None, "", "auto", "cuda", f"cuda:{index}"):
        raise UsageError(f"--device {name}: each rank of torchrun has its own device; give cuda, cpu or nothing")
    if index >= n_gpus:
        raise UsageError(
            f"local rank {index} has no GPU, this machine has {n_gpus}: start no more ranks on it, or give --device cpu"
        )
    return torch.device("cuda", index)


def _obey_launcher() -> None:
    """A launcher that is killed cannot end its ranks, so they watch it; on Windows it says stop with a Ctrl-Break."""
    if os.name == "nt":
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGBREAK, lambda *_: signal.raise_signal(signal.SIGTERM))
    elif launcher := os.environ.get("SVC_LAUNCHER"):
        threading.Thread(target=_end_with, args=(int(launcher),), daemon=True).start()


def _end_with(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(1)
    os._exit(1)
