"""The ranks of a training on several devices: who one is, what ranks ask each other, and what they have in common.

A rank is a process with a device of its own, started by `launch.py` (one machine) or by torchrun (one or several).
"""

import contextlib
import datetime
import logging
import os
import random
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from modules.device import choose_device
from modules.errors import FAILURES, UsageError, UserError

logger = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 1800  # how long a rank waits for the others; SVC_TIMEOUT_SECONDS overrides it
_LEAVE_SECONDS, ORDERLY_SECONDS = 5, 60  # after an error; where all ranks end, which a busy computer takes its time for
_CPU = torch.device("cpu")
_PYTHON_VERSION = 3  # of `random.getstate()`, the same since Python 3.2
_RANK_STRIDE = 1_000_003  # between the seeds of two ranks; more than a run has steps


class FailedElsewhere(Exception):
    """Another rank cannot go on and has said why."""


@dataclass(frozen=True)
class Group:
    """Who this process is among those that train together, and what it can ask them.

    Every method but `leave` waits until all ranks call it. Messages go from CPU to CPU, so that none waits for a GPU.
    """

    rank: int = 0  # number of this process, from 0
    world_size: int = 1  # number of processes
    device: torch.device = _CPU  # where this process computes

    @property
    def is_main(self) -> bool:
        """Whether this is the one rank that logs and writes files."""
        return self.rank == 0

    def lowest(self, number: int) -> int:
        """The smallest `number` of all ranks."""
        value = torch.tensor(number)
        if self.world_size > 1:
            distributed.all_reduce(value, distributed.ReduceOp.MIN)
        return int(value)

    def barrier(self) -> None:
        """Returns when all ranks are here."""
        self.lowest(0)

    def leave(self, seconds: float = _LEAVE_SECONDS) -> None:
        """Ends the process group, if there is one; without that its threads may abort a process that ends."""
        if self.world_size > 1 and distributed.is_initialized():
            # After an error the end could wait for the dead: that is given some seconds only.
            ending = threading.Thread(target=distributed.destroy_process_group, daemon=True)
            ending.start()
            ending.join(seconds)


def is_rank() -> bool:
    """Whether torchrun has started this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def join(device_name: str | None) -> Group:
    """The group of torchrun's environment, when all its ranks are there; else a group of this process only."""
    if not is_rank():
        return meet(0, 1, choose_device(device_name))
    rank, world_size = _number("RANK"), _number("WORLD_SIZE")
    device = choose_device(device_name) if world_size == 1 else _device_of_local_rank(device_name)
    return meet(rank, world_size, device)


def meet(rank: int, world_size: int, device: torch.device, rendezvous: Path | None = None) -> Group:
    """The group of `world_size` ranks, when all are there; they find each other through the file `rendezvous`, without
    one by torchrun's environment."""
    if device.type == "cuda":
        torch.cuda.set_device(device)  # events and streams that name none are this one's from now on
    if world_size == 1:
        return Group(device=device)
    if not distributed.is_available():
        raise UserError("this PyTorch is built without torch.distributed; train on one device, with --device")
    with_nccl = device.type == "cuda" and distributed.is_nccl_available()
    timeout = datetime.timedelta(seconds=_number("SVC_TIMEOUT_SECONDS", _TIMEOUT_SECONDS))
    try:
        store = None if rendezvous is None else distributed.FileStore(str(rendezvous), world_size)
        if store is not None:
            store.set_timeout(timeout)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if with_nccl else "gloo",
            init_method="env://" if store is None else None,
            store=store,
            rank=rank,
            world_size=world_size,
            timeout=timeout,
        )
    except (RuntimeError, ValueError, OSError) as error:
        place = rendezvous or f"{os.getenv('MASTER_ADDR')}:{os.getenv('MASTER_PORT')}"
        raise UserError(
            f"rank {rank} of {world_size} did not meet the others at {place} ({str(error).partition(chr(10))[0]}). "
            "Check that all ranks were started, that no other training uses this port, and that no firewall is between"
        ) from error
    return Group(rank, world_size, device)


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name, default)
    try:
        return int(text)
    except (TypeError, ValueError):
        raise UserError(
            f"environment variable {name}: found {text!r}, expected a whole number, as torchrun sets it"
        ) from None


def _device_of_local_rank(name: str | None) -> torch.device:
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


def share_gradients(net: nn.Module, group: Group | None) -> nn.Module:
    """A network to call in the place of `net`, which gets the weights of rank 0 first: its gradients become the mean
    over all ranks while the backward pass still runs. With one rank it is `net` itself."""
    if group is None or group.world_size == 1:
        return net
    devices = [group.device] if group.device.type == "cuda" else None
    return DistributedDataParallel(net, devices, gradient_as_bucket_view=True)


def no_sync(*nets: nn.Module, when: bool = True) -> contextlib.ExitStack:
    """Inside, forward passes with their backward passes only add to each rank's own gradient."""
    stack = contextlib.ExitStack()
    for net in nets:
        if when and isinstance(net, DistributedDataParallel):
            stack.enter_context(net.no_sync())
    return stack


@contextlib.contextmanager
def raise_on_all_ranks(group: Group) -> Iterator[None]:
    """Work that every rank does: what a user can mend on one rank ends it on all; the first such rank raises it, the
    others FailedElsewhere."""
    error = None
    try:
        yield
    except FAILURES as caught:
        error = caught
    speaker = group.lowest(group.world_size if error is None else group.rank)
    if speaker == group.rank and error is not None:
        raise error
    if speaker < group.world_size:
        raise FailedElsewhere from error


@contextlib.contextmanager
def report_lost_peer(group: Group) -> Iterator[None]:
    """Says in one line that another rank has gone, for which torch has a traceback, and raises FailedElsewhere."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).strip()
        if group.world_size == 1 or not re.search(r"gloo|nccl|closed by peer|reset by peer|broken pipe", text, re.I):
            raise
        logger.debug("rank %d lost the others", group.rank, exc_info=True)
        reason = re.sub(r"^\[\S+\] ", "", text.splitlines()[0]).partition(". ")[0]
        text = "rank %d (%s): another rank does not answer any more; that one says why (%s)"
        logger.warning(text, group.rank, group.device, reason)
        raise FailedElsewhere from None


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Where the generators of torch, Python and numpy are: one tensor for each, of the same length in every process."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    _, numbers, _ = random.getstate()
    states["python"] = torch.tensor(numbers, dtype=torch.int64)
    _, keys, position, _, _ = np.random.get_state()  # noqa: NPY002
    states["numpy"] = torch.tensor([*keys.tolist(), position], dtype=torch.int64)
    return states


def set_random_state(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Puts the generators where `states` says; those that it does not name are left as they are."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"].clone())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].clone(), device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"].clone())
    if "python" in states:
        random.setstate((_PYTHON_VERSION, tuple(states["python"].tolist()), None))
    if "numpy" in states:
        *keys, position = states["numpy"].tolist()
        np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position))  # noqa: NPY002


def gather_random_states(group: Group) -> list[dict[str, torch.Tensor]]:
    """The random state of every rank, on all ranks."""
    own = random_state(group.device)
    if group.world_size == 1:
        return [own]
    gathered = [{name: torch.empty_like(state) for name, state in own.items()} for _ in range(group.world_size)]
    for name, state in own.items():
        distributed.all_gather([states[name] for states in gathered], state)
    return gathered


def seed_all(seed: int) -> None:
    """Seeds every generator."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002


def seed_rank(seed: int, group: Group) -> None:
    """Gives all ranks but the main one random numbers of their own, after networks were built from the same ones."""
    if not group.is_main:
        seed_all(seed + _RANK_STRIDE * group.rank)
