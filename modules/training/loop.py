"""What the loop of every training shares: epochs, a step's batches, checkpoints, and every way to stop.

The loops themselves stand in `train.py` and `train_diff.py`.
"""

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from modules.errors import UserError
from modules.training.distributed import FailedElsewhere, Group, gather_random_states
from modules.training.guards import LossWatch, NotFinite, StopRequest, require_finite_weights

logger = logging.getLogger(__name__)

_BAR_SECONDS = 1.0  # between looks at the losses for the progress bar; each look waits for the device
_REHEARSED_STEPS, _REHEARSAL_SECONDS = 5, 4.0
_FAIL, _STOP, _GO = range(3)  # what the next step is for a rank; the lowest of all ranks counts


@dataclass
class TrainState:
    """How far a run is."""

    step: int = 0  # updates made
    epoch: int = 1  # the one they are in
    batches_done: int = 0  # of this epoch
    has_base: bool = False  # the run began with the weights of a base model


class Pace(NamedTuple):
    """Steps per second, and the share of the time spent waiting for data, 0 to 1."""

    speed: float
    waited: float

    def __str__(self) -> str:
        """Both in words."""
        return f"{self.speed:.2f} steps/s, {self.waited:.1%} of it waiting for data"


class ErrorHints(NamedTuple):
    """What a message tells the user to change: for a loss that is not finite, and for a memory that is too small."""

    not_finite: str
    memory: str


class Step(Protocol):
    """What is trained. A report has `losses`, a NamedTuple of scalars, `norms`, the lengths of the gradients, and a
    `str()` of a few losses."""

    config: Any  # with train.epochs
    networks: list[nn.Module]
    hints: ErrorHints
    accumulate: int  # batches in a step

    def run(self, batches: list) -> Any:
        """One update from batches on the device; returns a report."""


class TrainingLoop:
    """The steps of a training run, on one rank or as one of several that train together.

    Every rank runs the same loop on its share of the data:

        with loop.running(loader, last) as steps:
            for batches in steps:
                loop.count(batches, step.run(batches))

    Args:
        write: writes a checkpoint from the random states of all ranks; returns its path.
        saved: the newest checkpoint, if there is one.
    """

    def __init__(
        self,
        step: Step,
        state: TrainState,
        group: Group,
        write: Callable[[list[dict[str, torch.Tensor]]], Path],
        saved: Path | None = None,
        show_progress: bool = True,
    ) -> None:
        self.step, self.state, self.group, self.write, self.saved = step, state, group, write, saved
        self.epochs, self.accumulate, self.show_progress = step.config.train.epochs, step.accumulate, show_progress
        self.stop, self.watch = StopRequest(), LossWatch(step.hints.not_finite)
        self._saved_step = state.step
        self._pace_step, self._pace_start, self._waited, self._looked = 0, time.perf_counter(), 0.0, 0.0

    def last_step(self, loader: DataLoader, max_steps: int | None) -> int:
        """The step with which training ends: after all epochs, or `max_steps` before that."""
        n_batches = len(loader.batch_sampler)
        left = math.ceil(max(0, n_batches - self.state.batches_done) / self.accumulate)
        left += (self.epochs - self.state.epoch) * math.ceil(n_batches / self.accumulate)
        last = self.state.step + left
        return last if max_steps is None else min(last, max_steps)

    @contextlib.contextmanager
    def running(self, loader: DataLoader, last: int) -> Iterator[Iterator[list]]:
        """Yields the batches of each step, on the device, until `last` is done or a stop is requested; then saves.

        Args:
            loader: training batches; its `batch_sampler` is an `EpochBatches`.
            last: the step to end with.

        Raises:
            UserError: too many losses were not finite, a clip cannot be loaded, or the memory of the device is too
                small.
            FailedElsewhere: another rank has raised such an error.
        """
        is_silent = not (self.show_progress and self.group.is_main)
        self._bar = tqdm(
            total=last, initial=self.state.step, desc="train", unit="step", dynamic_ncols=True, disable=is_silent
        )
        try:
            with self.stop, self._bar:
                yield self._steps(loader, last)
                self.save()
        except torch.OutOfMemoryError:
            raise self._out_of_memory() from None
        except NotFinite:
            with contextlib.suppress(UserError):  # what is raised already says more
                self.save()
            raise

    def _steps(self, loader: DataLoader, last: int) -> Iterator[list]:
        state, n_batches = self.state, len(loader.batch_sampler)
        self._turn_epoch(n_batches)
        loader.batch_sampler.set_epoch(state.epoch, state.batches_done, self.epochs)
        batches = iter(loader)
        self._set_training()
        while state.step < last:
            asked = time.perf_counter()
            # A step does not reach into the next epoch.
            found = list(itertools.islice(batches, min(self.accumulate, n_batches - state.batches_done)))
            self._waited += time.perf_counter() - asked
            if self._must_stop(found):
                return
            yield [batch.to(self.group.device) for batch in found]
            if self._saved_step == state.step:  # networks may have been evaluated since
                self._set_training()
            self._turn_epoch(n_batches)

    def count(self, batches: list, report: Any) -> None:
        """Counts a step that was made of `batches`."""
        self.state.step += 1
        self.state.batches_done += len(batches)
        paths = [path for batch in batches for path in batch.paths]
        self.watch.push(self.state.step, paths, report.losses, report.norms)
        self._bar.update()
        if not self._bar.disable and time.perf_counter() - self._looked > _BAR_SECONDS:
            self._looked = time.perf_counter()
            self._bar.set_postfix_str(str(report), refresh=False)

    def pace(self) -> Pace:
        """The pace since the last call, or since the last checkpoint; all ranks look at their losses."""
        self.watch.flush()
        now, waited = time.perf_counter(), self._waited
        seconds, n_steps = max(now - self._pace_start, 1e-9), self.state.step - self._pace_step
        self._pace_step, self._pace_start, self._waited = self.state.step, now, 0.0
        return Pace(n_steps / seconds, waited / seconds)

    def save(self) -> None:
        """Saves this step unless it is saved already; never anything that is not finite."""
        if self.state.step == self._saved_step:
            return
        self.watch.flush()
        require_finite_weights(self.step.networks, self.state.step, self.step.hints.not_finite)
        states = gather_random_states(self.group)
        if self.group.is_main:
            self.saved = self.write(states)
            logger.info("saved %s", self.saved)
        self._saved_step = self.state.step
        self.group.barrier()

    def rehearse(self, loader: DataLoader) -> float:
        """Makes a few steps, of which nothing is kept or logged; returns the seconds of the quickest.

        One step, where it takes long; the first of several also plans the work of those after it.
        """
        loader.batch_sampler.set_epoch(self.state.epoch, 0, self.state.epoch + _REHEARSED_STEPS * self.accumulate)
        self._set_training()
        batches, times, start = iter(loader), [], time.perf_counter()
        try:
            # All ranks make as many steps: the slowest one's clock counts.
            while self.group.lowest(len(times) < _REHEARSED_STEPS and time.perf_counter() - start < _REHEARSAL_SECONDS):
                before = time.perf_counter()
                found = [next(batches) for _ in range(self.accumulate)]
                for batch in found:
                    if isinstance(batch, UserError):
                        raise batch
                report = self.step.run([batch.to(self.group.device) for batch in found])
                self.watch.push(self.state.step + len(times) + 1, found[-1].paths, report.losses, report.norms)
                self.watch.flush()  # waits for the device
                times.append(time.perf_counter() - before)
        except torch.OutOfMemoryError:
            raise self._out_of_memory() from None
        return min(times)

    def _must_stop(self, found: list) -> bool:
        """Whether this rank or another is told to stop; all ranks come to the same answer before the same step.

        Raises:
            UserError: a batch cannot be loaded.
            FailedElsewhere: another rank has that error.
        """
        error = next((batch for batch in found if isinstance(batch, UserError)), None)
        verdict = self.group.lowest(_FAIL if error else _STOP if self.stop.requested else _GO)
        if verdict == _FAIL:
            self.save()  # a file that went missing must not cost the steps since the last checkpoint
            raise error or FailedElsewhere()
        self.stop.requested |= verdict == _STOP
        return verdict == _STOP

    def _out_of_memory(self) -> UserError:
        return UserError(
            f"step {self.state.step + 1}: the memory of {self.group.device} is too small. {self.step.hints.memory}, "
            "then run the same command again."
        )

    def _turn_epoch(self, n_batches: int) -> None:
        """Begins the next epoch where this one is done."""
        if self.state.batches_done >= n_batches:
            self.state.epoch += 1
            self.state.batches_done = 0

    def _set_training(self) -> None:
        for net in self.step.networks:
            net.train()
        self._pace_step, self._pace_start, self._waited = self.state.step, time.perf_counter(), 0.0


def require_same_step(group: Group, folder: Path, state: TrainState) -> None:
    """Refuses to train on where ranks have found different checkpoints."""
    lowest, highest = group.lowest(state.step), -group.lowest(-state.step)
    if lowest != highest:
        raise UserError(
            f"{folder}: some ranks find step {lowest} there and others step {highest}. All machines must see the same "
            "checkpoints: share that folder, or copy its newest files to every machine"
        )
