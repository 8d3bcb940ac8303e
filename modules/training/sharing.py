"""What ranks that train together have in common: one gradient, one fate, and a checkpoint with the state of each."""

import contextlib
import logging
import re
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from modules.errors import UserError
from modules.training.distributed import Group
from modules.training.randomness import random_state

logger = logging.getLogger(__name__)


class FailedElsewhere(Exception):
    """Another rank cannot go on and has said why."""


def share_gradients(net: nn.Module, group: Group | None) -> nn.Module:
    """A network to call in the place of `net`: its gradients become the mean over all ranks, bucket by bucket while the
    backward pass still runs. With one rank it is `net` itself.

    The weights of rank 0 go to all ranks first.
    """
    if group is None or group.world_size == 1:
        return net
    devices = [group.device] if group.device.type == "cuda" else None
    return DistributedDataParallel(net, devices, gradient_as_bucket_view=True)


@contextlib.contextmanager
def unshared(*nets: nn.Module, when: bool = True) -> Iterator[None]:
    """Inside, forward passes with their backward passes only add to each rank's own gradient."""
    with contextlib.ExitStack() as stack:
        for net in nets:
            if when and isinstance(net, DistributedDataParallel):
                stack.enter_context(net.no_sync())
        yield


@contextlib.contextmanager
def together(group: Group) -> Iterator[None]:
    """Work that every rank does: if a user's mistake ends it on one rank, it ends on all, and one rank says why.

    Raises:
        UserError: it failed here, and on no rank before this one.
        FailedElsewhere: it failed, and another rank says why.
    """
    error = None
    try:
        yield
    except UserError as caught:
        error = caught
    speaker = group.lowest(group.world_size if error is None else group.rank)
    if speaker == group.rank and error is not None:
        raise error
    if speaker < group.world_size:
        raise FailedElsewhere from error


@contextlib.contextmanager
def losing_no_other(group: Group) -> Iterator[None]:
    """Says in one line that another rank has gone, for which torch has a traceback.

    Raises:
        FailedElsewhere: it has.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error).strip()
        if group.world_size == 1 or not re.search(r"gloo|nccl|closed by peer|reset by peer|broken pipe", text, re.I):
            raise
        logger.debug("rank %d lost the others", group.rank, exc_info=True)
        logger.warning(
            "rank %d (%s): another rank does not answer any more; that one says why (%s)",
            group.rank,
            group.device,
            re.sub(r"^\[\S+\] ", "", text.splitlines()[0]).partition(". ")[0],
        )
        raise FailedElsewhere from None


def gather_random_states(group: Group) -> list[dict[str, torch.Tensor]]:
    """The random state of every rank, on all ranks."""
    own = random_state(group.device)
    if group.world_size == 1:
        return [own]
    gathered = {name: group.gather_bytes(state.view(torch.uint8)) for name, state in own.items()}
    return [
        {name: states[rank].view(own[name].dtype) for name, states in gathered.items()}
        for rank in range(group.world_size)
    ]
