"""The loop that every training shares: epochs, steps, checkpoints, validation, and every way to stop.

What is trained, how a step goes and what a checkpoint holds is the business of the classes built on it.
"""

import logging
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from modules.errors import UserError
from modules.training.guards import LossWatch, StopRequest, require_finite_weights
from modules.training.state import TrainState

logger = logging.getLogger(__name__)

_BAR_SECONDS = 1.0  # between looks at the losses for the progress bar; each look waits for the device


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


class Trainer(ABC):
    """A training run in a folder of its own.

    Args:
        rhythm: when to log, validate and end.
        remedies: config keys for messages.
        device: where to train.
        folder: for checkpoints and logs.
        show_progress: draw a progress bar.
    """

    def __init__(
        self, rhythm: Rhythm, remedies: Remedies, device: torch.device, folder: Path, show_progress: bool = True
    ) -> None:
        self.rhythm, self.remedies = rhythm, remedies
        self.device, self.folder, self.show_progress = device, folder, show_progress
        self.state = TrainState()
        self.watch = LossWatch(remedies.not_finite)
        self.saved: Path | None = None
        self._saved_step = 0
        self._interval = (0, time.perf_counter())

    @abstractmethod
    def networks(self) -> list[nn.Module]:
        """What is trained."""

    @abstractmethod
    def learning_rate(self) -> float:
        """The rate of the coming step; also given to the optimisers."""

    @abstractmethod
    def advance(self, batch: Any, logged: bool) -> Any:
        """One update from a batch on the device; returns a report whose `losses` is a NamedTuple of scalars."""

    @abstractmethod
    def write_checkpoint(self) -> Path:
        """Writes the files of this step and deletes those that need not be kept; returns the model's."""

    @abstractmethod
    def open_log(self) -> Any:
        """The TensorBoard writer of the run; it has `close()`."""

    @abstractmethod
    def log_step(self, log: Any, report: Any, batch: Any, rate: float, speed: float) -> None:
        """Logs one step at `speed` steps per second."""

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
            UserError: the loss is not finite, a clip cannot be loaded, or the memory of the device is too small.
        """
        if self._finished(max_steps):
            return Outcome(self.saved, self.state.step, False)
        log = self.open_log()
        bar = tqdm(
            total=self._last_step(len(loader.batch_sampler), max_steps),
            initial=self.state.step,
            desc="train",
            unit="step",
            dynamic_ncols=True,
            disable=not self.show_progress,
        )
        self._interval = (self.state.step, time.perf_counter())
        try:
            with StopRequest() as stop, bar:
                while not self._finished(max_steps) and not stop.requested:
                    self._epoch(loader, validation, max_steps, stop, log, bar)
                self._save()
        except torch.OutOfMemoryError:
            raise UserError(
                f"step {self.state.step + 1}: the memory of {self.device} is too small. {self.remedies.memory}, then "
                "run the same command again."
            ) from None
        finally:
            log.close()
        return Outcome(self.saved, self.state.step, stop.requested)

    def _epoch(
        self, loader: DataLoader, validation: list, max_steps: int | None, stop: StopRequest, log: Any, bar: tqdm
    ) -> None:
        """The rest of the current epoch, or as much of it as there is to do."""
        state = self.state
        self._set_training()
        loader.batch_sampler.epoch, loader.batch_sampler.skip = state.epoch, state.batches_done
        looked = 0.0
        for batch in loader:
            if isinstance(batch, UserError):
                self._save()  # a file that went missing must not cost the steps since the last checkpoint
                raise batch
            report = self._advance(batch, log)
            bar.update()
            if time.perf_counter() - looked > _BAR_SECONDS and not bar.disable:
                looked = time.perf_counter()
                bar.set_postfix_str(self.describe(report), refresh=False)
            if state.step % self.rhythm.eval_interval == 0:
                self._save()
                self.validate(validation, stop, log)
                self._set_training()
            if stop.requested or self._finished(max_steps):
                return
        state.epoch += 1
        state.batches_done = 0

    def _advance(self, batch: Any, log: Any) -> Any:
        """One step, logged where it is due."""
        state = self.state
        logged = (state.step + 1) % self.rhythm.log_interval == 0
        on_device = batch.to(self.device)
        rate = self.learning_rate()
        report = self.advance(on_device, logged)
        state.step += 1
        state.batches_done += 1
        self.watch.push(state.step, batch.paths, report.losses)
        if logged:
            self.watch.flush()
            before, since = self._interval
            self._interval = (state.step, time.perf_counter())
            speed = (state.step - before) / max(self._interval[1] - since, 1e-9)
            self.log_step(log, report, on_device, rate, speed)
        return report

    def _save(self) -> None:
        """Saves this step unless it is saved already; never anything that is not finite."""
        if self.state.step == self._saved_step:
            return
        self.watch.flush()
        require_finite_weights(self.networks(), self.state.step, self.remedies.not_finite)
        self.saved = self.write_checkpoint()
        self._saved_step = self.state.step
        logger.info("saved %s", self.saved)

    def continue_from(self, state: TrainState, path: Path | None) -> None:
        """Takes a state and the checkpoint that it came from; None for a run that starts."""
        self.state = state
        if path is not None:
            self.saved, self._saved_step = path, state.step
            logger.info("going on from %s: step %d, epoch %d", path, state.step, state.epoch)

    def _set_training(self) -> None:
        for net in self.networks():
            net.train()

    def _finished(self, max_steps: int | None) -> bool:
        reached = max_steps is not None and self.state.step >= max_steps
        return reached or self.state.epoch > self.rhythm.epochs

    def _last_step(self, n_batches: int, max_steps: int | None) -> int:
        epochs_left = self.rhythm.epochs - self.state.epoch + 1
        last = self.state.step + epochs_left * n_batches - self.state.batches_done
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
