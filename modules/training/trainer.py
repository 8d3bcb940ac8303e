"""The loop that every training shares: epochs, steps, checkpoints, validation, and every way to stop.

What is trained, how a step goes and what a checkpoint holds is the business of the classes built on it.
"""

import contextlib
import itertools
import logging
import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from modules.errors import UserError
from modules.training.distributed import Group
from modules.training.guards import LossWatch, NotFinite, StopRequest, require_finite_weights
from modules.training.resume import TrainState
from modules.training.sharing import FailedElsewhere, gather_random_states
from modules.training.tensorboard import Pace

logger = logging.getLogger(__name__)

_BAR_SECONDS = 1.0  # between looks at the losses for the progress bar; each look waits for the device
_REHEARSED_STEPS, _REHEARSAL_SECONDS = 5, 4.0
_FAIL, _STOP, _GO = range(3)  # what the next step is for a rank; the lowest of all ranks counts


class Outcome(NamedTuple):
    """How a run ended: its newest model (None if there is none yet), the step, and whether it was told to stop."""

    model_path: Path | None
    step: int
    interrupted: bool


class Rhythm(NamedTuple):
    """When what happens: steps between two log lines and between two validations with a checkpoint; epochs in all."""

    log_interval: int
    eval_interval: int
    epochs: int


class Remedies(NamedTuple):
    """What a message tells the user to change: for a loss that is not finite, and for a memory that is too small."""

    not_finite: str
    memory: str


@dataclass
class _Stretch:
    """Steps since a moment, and the seconds of it spent waiting for data."""

    step: int
    start: float
    waited: float = 0.0


class Trainer(ABC):
    """A training run in a folder of its own, on one rank or as one of several that train together.

    Every rank runs the same loop on its share of the data; the main one also writes and speaks.

    Args:
        rhythm: when to log, validate and end.
        remedies: config keys for messages.
        group: the ranks, and the device of this one.
        folder: for checkpoints and logs.
        show_progress: draw a progress bar.
        accumulate: batches in a step.
    """

    def __init__(
        self,
        rhythm: Rhythm,
        remedies: Remedies,
        group: Group,
        folder: Path,
        show_progress: bool = True,
        accumulate: int = 1,
    ) -> None:
        self.rhythm, self.remedies, self.accumulate = rhythm, remedies, accumulate
        self.group, self.device, self.folder, self.show_progress = group, group.device, folder, show_progress
        self.state = TrainState()
        self.watch = LossWatch(remedies.not_finite)
        self.saved: Path | None = None
        self._saved_step = 0
        self._pace = _Stretch(0, time.perf_counter())

    @abstractmethod
    def networks(self) -> list[nn.Module]:
        """What is trained."""

    @abstractmethod
    def learning_rate(self) -> float:
        """The rate of the coming step; also given to the optimisers."""

    @abstractmethod
    def advance(self, batches: list) -> Any:
        """One update from batches on the device.

        Returns:
            A report: `losses` is a NamedTuple of scalars, `norms` are the lengths of the gradients.
        """

    @abstractmethod
    def write_checkpoint(self, random_states: list[dict[str, torch.Tensor]]) -> Path:
        """Writes the files of this step and deletes those that need not be kept; returns the model's.

        Args:
            random_states: of the random number generators of each rank.
        """

    @abstractmethod
    def open_log(self) -> Any:
        """The TensorBoard writer of the run; it has `close()`."""

    @abstractmethod
    def log_step(self, log: Any, report: Any, batch: Any, rate: float, pace: Pace) -> None:
        """Logs one step; `batch` is the last of it."""

    @abstractmethod
    def validate(self, validation: list, stop: StopRequest, log: Any) -> None:
        """Measures the networks on clips that they are not trained on; leaves their mode as it likes."""

    @abstractmethod
    def describe(self, report: Any) -> str:
        """A few losses for the progress bar."""

    def run(self, loader: DataLoader, validation: list, max_steps: int | None = None) -> Outcome:
        """Trains until the epochs or `max_steps` are done, or until told to stop, and saves.

        Args:
            loader: training batches; its `batch_sampler` is an `EpochBatches`.
            validation: clips for `validate`.
            max_steps: updates since step 0, or None.

        Raises:
            UserError: too many losses were not finite, a clip cannot be loaded, or the memory of the device is too
                small.
            FailedElsewhere: another rank has raised such an error.
        """
        n_batches = len(loader.batch_sampler)
        self._turn_epoch(n_batches)
        if self._finished(max_steps):
            return Outcome(self.saved, self.state.step, False)
        log = self.open_log() if self.group.is_main else None
        bar = tqdm(
            total=self.last_step(n_batches, max_steps),
            initial=self.state.step,
            desc="train",
            unit="step",
            dynamic_ncols=True,
            disable=not (self.show_progress and self.group.is_main),
        )
        self._pause()
        try:
            with StopRequest() as stop, bar:
                self._loop(loader, validation, max_steps, stop, log, bar)
                self._save()
        except torch.OutOfMemoryError:
            raise self._too_small() from None
        except NotFinite:
            with contextlib.suppress(UserError):  # what is raised already says more
                self._save()
            raise
        finally:
            if log is not None:
                log.close()
        return Outcome(self.saved, self.state.step, stop.requested)

    def rehearse(self, loader: DataLoader) -> float:
        """Makes a few steps, of which nothing is kept or logged, and tells how long the quickest took, in seconds.

        One step, where it takes long; the first of several also plans the work of those after it.

        Raises:
            UserError: as `run`.
        """
        sampler = loader.batch_sampler
        sampler.set_epoch(self.state.epoch, 0, self.state.epoch + _REHEARSED_STEPS * self.accumulate)
        self._set_training()
        try:
            return self._rehearse(loader)
        except torch.OutOfMemoryError:
            raise self._too_small() from None

    def _rehearse(self, loader: DataLoader) -> float:
        batches, times, start = iter(loader), [], time.perf_counter()
        # All ranks make as many steps: the slowest one's clock counts.
        while self.group.lowest(len(times) < _REHEARSED_STEPS and time.perf_counter() - start < _REHEARSAL_SECONDS):
            before = time.perf_counter()
            found = [next(batches) for _ in range(self.accumulate)]
            for batch in found:
                if isinstance(batch, UserError):
                    raise batch
            report = self.advance([batch.to(self.device) for batch in found])
            self.watch.push(self.state.step + len(times) + 1, found[-1].paths, report.losses, report.norms)
            self.watch.flush()  # waits for the device
            times.append(time.perf_counter() - before)
        return min(times)

    def _too_small(self) -> UserError:
        """What to say of a memory that is too small."""
        return UserError(
            f"step {self.state.step + 1}: the memory of {self.device} is too small. {self.remedies.memory}, then run "
            "the same command again."
        )

    def _loop(
        self, loader: DataLoader, validation: list, max_steps: int | None, stop: StopRequest, log: Any, bar: tqdm
    ) -> None:
        """Steps until there is a reason to end."""
        state, n_batches, looked = self.state, len(loader.batch_sampler), 0.0
        loader.batch_sampler.set_epoch(state.epoch, state.batches_done, self.rhythm.epochs)
        batches = iter(loader)
        self._set_training()
        while not self._finished(max_steps):
            asked = time.perf_counter()
            found = list(itertools.islice(batches, min(self.accumulate, n_batches - state.batches_done)))
            self._pace.waited += time.perf_counter() - asked
            if self._must_stop(found, stop):
                return
            report = self._advance(found, log)
            bar.update()
            if time.perf_counter() - looked > _BAR_SECONDS and not bar.disable:
                looked = time.perf_counter()
                bar.set_postfix_str(self.describe(report), refresh=False)
            if state.step % self.rhythm.eval_interval == 0:
                self._save()
                if self.group.is_main:
                    self.validate(validation, stop, log)
                self.group.barrier()
                self._set_training()
                self._pause()
            self._turn_epoch(n_batches)

    def _must_stop(self, found: list, stop: StopRequest) -> bool:
        """Whether this rank or another is told to stop; all ranks come to the same answer before the same step.

        Raises:
            UserError: a batch cannot be loaded.
            FailedElsewhere: another rank has that error.
        """
        error = next((batch for batch in found if isinstance(batch, UserError)), None)
        verdict = self.group.lowest(_FAIL if error else _STOP if stop.requested else _GO)
        if verdict == _FAIL:
            self._save()  # a file that went missing must not cost the steps since the last checkpoint
            raise error or FailedElsewhere()
        stop.requested |= verdict == _STOP
        return verdict == _STOP

    def _advance(self, batches: list, log: Any) -> Any:
        """One step, logged where it is due."""
        state = self.state
        rate = self.learning_rate()
        on_device = [batch.to(self.device) for batch in batches]
        report = self.advance(on_device)
        state.step += 1
        state.batches_done += len(batches)
        paths = [path for batch in batches for path in batch.paths]
        self.watch.push(state.step, paths, report.losses, report.norms)
        if state.step % self.rhythm.log_interval == 0:
            self.watch.flush()
            pace = self._pause()
            if log is not None:
                self.log_step(log, report, on_device[-1], rate, pace)
        return report

    def _pause(self) -> Pace:
        """The pace since the last pause; a new stretch begins."""
        now, since = time.perf_counter(), self._pace
        self._pace = _Stretch(self.state.step, now)
        seconds = max(now - since.start, 1e-9)
        return Pace((self.state.step - since.step) / seconds, since.waited / seconds)

    def _save(self) -> None:
        """Saves this step unless it is saved already; never anything that is not finite."""
        if self.state.step == self._saved_step:
            return
        self.watch.flush()
        require_finite_weights(self.networks(), self.state.step, self.remedies.not_finite)
        states = gather_random_states(self.group)
        if self.group.is_main:
            self.saved = self.write_checkpoint(states)
            logger.info("saved %s", self.saved)
        self._saved_step = self.state.step
        self.group.barrier()

    def continue_from(self, state: TrainState, path: Path | None) -> None:
        """Takes a state and the checkpoint that it came from; None for a run that starts.

        Raises:
            UserError: another rank goes on from another step.
        """
        steps = self.group.lowest(state.step), -self.group.lowest(-state.step)
        if steps[0] != steps[1]:
            raise UserError(
                f"{self.folder}: some ranks find step {steps[0]} there and others step {steps[1]}. All machines must "
                "see the same checkpoints: share that folder, or copy its newest files to every machine"
            )
        self.state = state
        if path is not None:
            self.saved, self._saved_step = path, state.step
            logger.info("going on from %s: step %d, epoch %d", path, state.step, state.epoch)

    def _turn_epoch(self, n_batches: int) -> None:
        """Begins the next epoch where this one is done."""
        if self.state.batches_done >= n_batches:
            self.state.epoch += 1
            self.state.batches_done = 0

    def _set_training(self) -> None:
        for net in self.networks():
            net.train()

    def _finished(self, max_steps: int | None) -> bool:
        reached = max_steps is not None and self.state.step >= max_steps
        return reached or self.state.epoch > self.rhythm.epochs

    def last_step(self, n_batches: int, max_steps: int | None) -> int:
        """The step with which training ends: after all epochs of `n_batches`, or `max_steps` before that."""
        epochs_left = self.rhythm.epochs - self.state.epoch + 1
        steps = math.ceil(n_batches / self.accumulate)
        done = math.ceil(self.state.batches_done / self.accumulate)
        last = self.state.step + epochs_left * steps - done
        return last if max_steps is None else min(last, max_steps)


def say_how_it_ended(outcome: Outcome, done_before: int, max_steps: int | None, epochs: int) -> int:
    """Reports a run that was stopped, or that had nothing to do; returns the exit code, 0 or 130.

    Args:
        outcome: of the run.
        done_before: steps before it.
        max_steps: as `Trainer.run`.
        epochs: the config's.
    """
    if outcome.interrupted:
        kept = f"saved {outcome.model_path}" if outcome.model_path else "nothing was trained yet, nothing is saved"
        logger.info("stopped at step %d: %s; run the same command again to go on", outcome.step, kept)
        return 130
    if outcome.step == done_before:
        asked = f"--max_steps {max_steps}" if max_steps else f"{epochs} epochs (train.epochs)"
        logger.info("nothing to do: step %d is reached already, %s asked for", outcome.step, asked)
    return 0
