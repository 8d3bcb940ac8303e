"""What may end a run early: a request to stop, and a loss that is no number any more."""

import math
import signal
from collections import deque
from types import FrameType
from typing import Any, NamedTuple

import torch

from modules.errors import UserError

_SHOWN_FILES = 12


class StopRequest:
    """Notes Ctrl-C and SIGTERM while it is entered, so that the loop can finish its step and save.

    A second Ctrl-C ends the program at once. Signals can only be caught in the main thread; elsewhere this does
    nothing.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        try:
            self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        except ValueError:
            self._before = {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True


class _Pending(NamedTuple):
    step: int
    files: list[str]
    names: tuple[str, ...]
    losses: torch.Tensor
    ready: torch.cuda.Event | None


class LossWatch:
    """Stops a run whose loss is not finite.

    On CUDA a step's losses are looked at while the next step computes, so that watching costs no time; `flush` looks at
    what is left, and must be called before weights are saved.

    Args:
        remedy: what the message tells the user to change, like "lower train.learning_rate".
    """

    def __init__(self, remedy: str) -> None:
        self._remedy = remedy
        self._pending: deque[_Pending] = deque()

    def push(self, step: int, files: list[str], losses: Any) -> None:
        """Notes the losses of a step, a NamedTuple of scalars, and looks at those of the one before.

        Raises:
            UserError: a loss is not finite; the text names the step and the clips of its batch.
        """
        values = torch.stack([loss.float() for loss in losses])
        ready = None
        if values.is_cuda:
            host = torch.empty(values.shape, pin_memory=True)
            values = host.copy_(values, non_blocking=True)
            ready = torch.cuda.Event()
            ready.record()
        self._pending.append(_Pending(step, files, losses._fields, values, ready))
        while len(self._pending) > (0 if ready is None else 1):
            self._look()

    def flush(self) -> None:
        """Looks at everything noted. Raises UserError as `push`."""
        while self._pending:
            self._look()

    def _look(self) -> None:
        step, files, names, losses, ready = self._pending.popleft()
        if ready is not None:
            ready.synchronize()
        values = losses.tolist()
        if all(map(math.isfinite, values)):
            return
        named = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, values))
        shown = ", ".join(files[:_SHOWN_FILES]) + (" ..." if len(files) > _SHOWN_FILES else "")
        raise UserError(
            f"step {step}: the loss is not finite ({named}). Nothing of it was saved. The batch held: {shown}. "
            f"Listen to these clips and remove bad ones, or {self._remedy}; "
            "then run the same command again: it goes on from the last checkpoint."
        )


def require_finite_weights(nets: list[torch.nn.Module], step: int, remedy: str) -> None:
    """Refuses to go on with weights that are not finite: a loss can be a number and its gradient not.

    Raises:
        UserError: a weight is infinite or not a number.
    """
    for net in nets:
        norms = torch._foreach_norm([parameter.detach() for parameter in net.parameters()])
        if not torch.stack([norm.float() for norm in norms]).isfinite().all():
            raise UserError(
                f"step {step}: weights are not finite any more, so nothing was saved. Mend it so: {remedy}; then "
                "run the same command again: it goes on from the last checkpoint."
            )
