"""What may end a run early: a request to stop, and a loss that is no number any more."""

import logging
import math
import multiprocessing
import signal
from collections import deque
from types import FrameType
from typing import Any

import torch

from modules.errors import UserError

logger = logging.getLogger(__name__)

# fp16 may need a few steps to find the scale of its loss; ten halvings are a factor of a thousand.
MAX_BROKEN_STEPS = 10
_SHOWN_FILES = 12


class StopRequest:
    """Notes Ctrl-C, SIGTERM, Windows' Ctrl-Break and SIGHUP, of a terminal that closes, while it is entered, so that
    the loop can finish its step and save. A SIGHUP that is ignored, as nohup has it, stays so.

    A second Ctrl-C ends the program at once, or the launcher if this is one of its ranks.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        numbers = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        if hasattr(signal, "SIGBREAK"):
            numbers.append(signal.SIGBREAK)
        try:
            self._before = {number: signal.signal(number, self._note) for number in numbers}
        except ValueError:  # signals can only be caught in the main thread
            self._before = {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT and multiprocessing.parent_process() is None:
            raise KeyboardInterrupt
        self.requested = True


class NotFinite(UserError):
    """Too many steps in a row had a loss or a gradient that is not finite."""


class LossWatch:
    """Counts the steps whose losses or gradients are not finite, which leave a network as it was, and ends a run that
    has had `limit` of them in a row; `hint` is what the user should change, like "lower train.learning_rate".

    On CUDA a step's losses are looked at while the next step computes, so that watching costs no time; `flush` looks at
    what is left, and must be called before weights are saved.
    """

    def __init__(self, hint: str, limit: int = MAX_BROKEN_STEPS) -> None:
        self._hint, self._limit = hint, limit
        self._pending: deque[tuple] = deque()  # arguments of `_look`
        self._in_a_row = 0

    def push(self, step: int, files: list[str], losses: Any, norms: tuple[torch.Tensor, ...] = ()) -> None:
        """Notes the losses of a step, a NamedTuple of scalars, with the lengths of its gradients, and looks at those of
        the one before. Raises NotFinite after too many in a row."""
        values = torch.stack([value.float() for value in (*losses, *norms)])
        ready = None
        if values.is_cuda:
            host = torch.empty(values.shape, pin_memory=True)
            values = host.copy_(values, non_blocking=True)
            ready = torch.cuda.Event()
            ready.record()
        self._pending.append((step, files, losses._fields, values, ready))
        self.flush(0 if ready is None else 1)

    def flush(self, n_left: int = 0) -> None:
        """Looks at everything noted but the last `n_left`. Raises NotFinite as `push`."""
        while len(self._pending) > n_left:
            self._look(*self._pending.popleft())

    def _look(self, step: int, files: list[str], names: tuple[str, ...], losses: torch.Tensor, ready: Any) -> None:
        if ready is not None:
            ready.synchronize()
        values = losses.tolist()
        if all(map(math.isfinite, values)):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        named = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, values))
        shown = ", ".join(files[:_SHOWN_FILES]) + (" ..." if len(files) > _SHOWN_FILES else "")
        if self._in_a_row >= self._limit:
            self._pending.clear()
            raise NotFinite(
                f"step {step}: for {self._limit} steps in a row the loss or its gradient is not finite ({named}). Such "
                f"a step leaves a network as it was. The last batch held: {shown}. Listen to these clips and remove "
                f"bad ones, or {self._hint}; then run the same command again: it goes on from the last checkpoint."
            )
        if all(map(math.isfinite, values[: len(names)])):
            # In fp16 that is the search for the largest scale of the loss: nothing that a user should act on.
            logger.info("step %d: its gradient is not finite; left out", step)
        else:
            logger.warning("step %d: the loss is not finite (%s); left out. Its batch held: %s", step, named, shown)


def require_finite_weights(nets: list[torch.nn.Module], step: int, hint: str) -> None:
    """Refuses to save weights that are not finite: a loss can be a number and its gradient not."""
    for net in nets:
        norms = torch._foreach_norm([parameter.detach() for parameter in net.parameters()])
        if not torch.stack([norm.float() for norm in norms]).isfinite().all():
            raise UserError(
                f"step {step}: weights are not finite any more, so nothing was saved. Fix it: {hint}; then run the "
                "same command again: it goes on from the last checkpoint."
            )
