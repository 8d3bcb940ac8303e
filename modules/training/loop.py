"""The loop of every training: epochs, a step's batches, checkpoints, and every way to stop."""

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from modules.errors import FAILURES, UserError, is_out_of_memory, reason_of
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
        return f"{self.speed:.2f} steps/s, {self.waited:.1%} of it waiting for data"


class Step(Protocol):
    """What is trained."""

    config: Any  # with train.epochs
    networks: list[nn.Module]
    not_finite_hint: str  # what a message tells the user to change for a loss that is not finite
    memory_hint: str  # and for a memory that is too small
    accumulate: int  # batches in a step
    log_interval: int  # steps
    save_interval: int  # steps

    def prepare(self, state: TrainState) -> float:
        """Sets the learning rate of the coming step and returns it."""

    def run(self, batches: list) -> Any:
        """One update from batches on the device; returns a report: `losses`, a NamedTuple of scalars, `norms`, the
        lengths of the gradients, and a `str()` of a few losses."""


class TrainingLoop:
    """The steps of a training run; every rank runs the same loop on its share of the data."""

    def __init__(
        self,
        step: Step,
        state: TrainState,
        group: Group,
        write: Callable[[list[dict[str, torch.Tensor]]], Path],  # a checkpoint, from the random states of all ranks
        saved: Path | None = None,  # the newest checkpoint
        show_progress: bool = True,
    ) -> None:
        self.step, self.state, self.group, self.write, self.saved = step, state, group, write, saved
        self.epochs, self.accumulate, self.show_progress = step.config.train.epochs, step.accumulate, show_progress
        self.stop, self.watch = StopRequest(), LossWatch(step.not_finite_hint)
        self.first_step = self._saved_step = state.step
        self._looked = 0.0

    def last_step(self, loader: DataLoader, max_steps: int | None) -> int:
        """The step with which training ends: after all epochs, or `max_steps` before that."""
        n_batches = len(loader.batch_sampler)
        left = math.ceil(max(0, n_batches - self.state.batches_done) / self.accumulate)
        left += (self.epochs - self.state.epoch) * math.ceil(n_batches / self.accumulate)
        last = self.state.step + left
        return last if max_steps is None else min(last, max_steps)

    def train(self, loader: DataLoader, max_steps: int | None = None, monitor: Any = None) -> None:
        """Trains on the batches of an `EpochBatches` until all epochs or `max_steps` are done, or until told to stop,
        and saves; `monitor`, on the main rank, logs and validates. What ends it on one rank ends it on all."""
        step, last = self.state.step, self.last_step(loader, max_steps)
        if step >= last:
            return
        is_silent = not (self.show_progress and self.group.is_main)
        self._bar = tqdm(desc="train", unit="step", dynamic_ncols=True, disable=is_silent)
        with self.stop, self._bar:
            try:
                with monitor or contextlib.nullcontext():
                    self._run(loader, last, monitor)
            except NotFinite:
                with contextlib.suppress(UserError):  # what is raised already says more
                    self.save(is_last=True)
                raise
            except Exception as error:
                self._rescue()
                if (explained := self._explain(error)) is not None:
                    raise explained from None
                raise
            self.save(is_last=True)

    def _run(self, loader: DataLoader, last: int, monitor: Any) -> None:
        state, step, n_batches = self.state, self.step, len(loader.batch_sampler)
        self._turn_epoch(n_batches)
        loader.batch_sampler.set_epoch(state.epoch, state.batches_done, self.epochs)
        loaded = iter(loader)
        self._set_training()
        self._aim(last)
        while state.step < last:
            asked = time.perf_counter()
            # A step does not reach into the next epoch.
            found = list(itertools.islice(loaded, min(self.accumulate, n_batches - state.batches_done)))
            self._waited += time.perf_counter() - asked
            if self._must_stop(found):
                return
            batches = [batch.to(self.group.device) for batch in found]
            rate = step.prepare(state)
            report = step.run(batches)
            self._count(batches, report)
            if state.step % step.log_interval == 0:
                pace = self._pace()
                if monitor:
                    monitor.log_step(report, batches[-1], rate, pace)
            if state.step % step.save_interval == 0:
                self.save()
                if monitor:
                    monitor.validate(self.stop)
                self._set_training()
                self._aim(last)
            self._turn_epoch(n_batches)

    def _count(self, batches: list, report: Any) -> None:
        self.state.step += 1
        self.state.batches_done += len(batches)
        paths = [path for batch in batches for path in batch.paths]
        self.watch.push(self.state.step, paths, report.losses, report.norms)
        self._bar.update()
        if not self._bar.disable and time.perf_counter() - self._looked > _BAR_SECONDS:
            self._looked = time.perf_counter()
            self._bar.set_postfix_str(str(report), refresh=False)

    def _pace(self) -> Pace:
        """The pace since the last call, or since the last checkpoint; all ranks look at their losses."""
        self.watch.flush()
        now, waited = time.perf_counter(), self._waited
        seconds, n_steps = max(now - self._pace_start, 1e-9), self.state.step - self._pace_step
        self._pace_step, self._pace_start, self._waited = self.state.step, now, 0.0
        return Pace(n_steps / seconds, waited / seconds)

    def _aim(self, last: int) -> None:
        """Lets the progress bar run to the next checkpoint, or to the end if that is nearer."""
        step, interval = self.state.step, self.step.save_interval
        goal = min(last, (step // interval + 1) * interval)
        if not self._bar.disable and goal > step:
            self._bar.set_description_str(f"train to step {goal}", refresh=False)
            self._bar.reset(goal - step)

    def _rescue(self) -> None:
        """Saves what is trained before an error ends the run; of several ranks none can do so alone."""
        if self.group.world_size == 1:
            with contextlib.suppress(*FAILURES, RuntimeError):
                self.save(is_last=True)

    def _explain(self, error: Exception) -> UserError | None:
        """In words, a lack of memory, or a worker that was killed, mostly for one."""
        if isinstance(error, torch.OutOfMemoryError) or is_out_of_memory(error):
            return self._out_of_memory()
        if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
            what = f"step {self.state.step + 1}: a process that reads clips was ended, mostly for a lack of memory"
            return UserError(f"{what}. Close other programs, then run the same command again: it goes on.")
        return None

    def save(self, is_last: bool = False) -> None:
        """Saves this step unless it is saved already; never anything that is not finite. What cannot be written, as on
        a full disk, is tried again at the next checkpoint; if this `is_last`, it is an error."""
        if self.state.step == self._saved_step:
            return
        self.watch.flush()
        require_finite_weights(self.step.networks, self.state.step, self.step.not_finite_hint)
        states, error = gather_random_states(self.group), None
        if self.group.is_main:
            try:
                self.saved = self.write(states)
                logger.info("saved %s", self.saved)
            except FAILURES as caught:
                error = caught
        if self.group.lowest(error is None):
            self._saved_step = self.state.step
        elif is_last:
            if error is None:
                raise FailedElsewhere
            since = f"{self.saved} is the newest checkpoint" if self.saved else "there is no checkpoint"
            raise UserError(f"step {self.state.step} is not saved: {reason_of(error)} Of this run {since}.") from None
        elif error is not None:
            text = "step %d is not saved: %s Training goes on and tries again at the next checkpoint"
            logger.error(text, self.state.step, reason_of(error))

    def rehearse(self, loader: DataLoader) -> float:
        """Makes a few steps, of which nothing is kept or logged; returns the seconds of the quickest."""
        # One step, where it takes long; the first of several also plans the work of those after it.
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
        """Whether this rank or another is told to stop; all ranks come to the same answer before the same step."""
        error = next((batch for batch in found if isinstance(batch, UserError)), None)
        verdict = self.group.lowest(_FAIL if error else _STOP if self.stop.requested else _GO)
        if verdict == _FAIL:
            self.save()  # a file that went missing must not cost the steps since the last checkpoint
            raise error or FailedElsewhere()
        self.stop.requested |= verdict == _STOP
        return verdict == _STOP

    def _out_of_memory(self) -> UserError:
        return UserError(
            f"step {self.state.step + 1}: the memory of {self.group.device} is too small. {self.step.memory_hint}, "
            "then run the same command again."
        )

    def _turn_epoch(self, n_batches: int) -> None:
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
