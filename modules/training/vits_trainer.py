"""The training loop of the voice model: epochs, checkpoints, validation, and every way to stop.

It receives finished networks; which ones they are is the script's business.
"""

import logging
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from modules.audio.mel import mel_spectrogram
from modules.config.audio import AudioSpec
from modules.config.schema import Config
from modules.data.dataset import Batch, Item
from modules.errors import UserError
from modules.training.guards import LossWatch, StopRequest, require_finite_weights
from modules.training.logging import TrainingLog
from modules.training.state import Start, TrainState, find_start, load_start, save_state
from modules.training.step import StepReport, VitsStep, learning_rate

logger = logging.getLogger(__name__)

VALIDATION_SECONDS = 15.0  # of each clip; more takes long on a CPU and tells no more
_BAR_SECONDS = 1.0  # between looks at the losses for the progress bar; each look waits for the device


class Outcome(NamedTuple):
    """How a run ended: its newest generator (None if there is none yet), the step, and whether it was told to stop."""

    model_path: Path | None
    step: int
    interrupted: bool


class VitsTrainer:
    """Trains the voice model in a folder of its own.

    Args:
        net_g: the voice model, on `device`; it needs `forward` and `infer` of `SynthesizerTrn`.
        net_d: the discriminators, on `device`.
        config: the run's configuration.
        device: where to train.
        folder: for checkpoints and logs; what it holds already decides where the run starts.
        show_progress: draw a progress bar.
    """

    def __init__(
        self,
        net_g: nn.Module,
        net_d: nn.Module,
        config: Config,
        device: torch.device,
        folder: Path,
        show_progress: bool = True,
    ) -> None:
        self.config, self.device, self.folder, self.show_progress = config, device, folder, show_progress
        self.step = VitsStep(net_g, net_d, config, device)
        self.state = TrainState()
        self.watch = LossWatch()
        self.saved: Path | None = None
        self._saved_step = 0
        self._interval = (0, time.perf_counter())

    def start(self) -> Start:
        """Goes to where the folder's checkpoints say: on from the newest pair, or from a base model, or from nothing.

        Raises:
            CheckpointError: a checkpoint is damaged or does not fit the config.
        """
        start = find_start(self.folder)
        self.state = load_start(start, self.step, self.config)
        if start.step:
            self.saved, self._saved_step = start.g, start.step
            logger.info("going on from %s: step %d, epoch %d", start.g, self.state.step, self.state.epoch)
        return start

    def run(self, loader: DataLoader, validation: list[Item], max_steps: int | None = None) -> Outcome:
        """Trains until the config's epochs or `max_steps` are done, or until told to stop, and saves.

        Args:
            loader: training batches, from `make_loader`.
            validation: clips to sing at every `train.eval_interval`.
            max_steps: updates since step 0, or None.

        Raises:
            UserError: the loss is not finite, a clip cannot be loaded, or the memory of the device is too small.
        """
        if self._finished(max_steps):
            return Outcome(self.saved, self.state.step, False)
        log = TrainingLog(self.folder, self.config.audio, self.state.step)
        total = self._last_step(len(loader.batch_sampler), max_steps)
        bar = tqdm(
            total=total,
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
                f"step {self.state.step + 1}: the memory of {self.device} is too small. Lower train.batch_size (it is "
                f"{self.config.train.batch_size}) or train.segment_size, then run the same command again."
            ) from None
        finally:
            log.close()
        return Outcome(self.saved, self.state.step, stop.requested)

    def _epoch(
        self,
        loader: DataLoader,
        validation: list[Item],
        max_steps: int | None,
        stop: StopRequest,
        log: TrainingLog,
        bar: tqdm,
    ) -> None:
        """The rest of the current epoch, or as much of it as there is to do."""
        state = self.state
        self.step.set_learning_rate(learning_rate(self.config, state.epoch))
        self.step.net_g.train()
        self.step.net_d.train()
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
                bar.set_postfix_str(_short(report), refresh=False)
            if state.step % self.config.train.eval_interval == 0:
                self._save()
                self._validate(validation, stop, log)
            if stop.requested or self._finished(max_steps):
                return
        state.epoch += 1
        state.batches_done = 0

    def _advance(self, batch: Batch, log: TrainingLog) -> StepReport:
        """One step, logged where it is due."""
        state = self.state
        logged = (state.step + 1) % self.config.train.log_interval == 0
        on_device = batch.to(self.device)
        report = self.step.run(on_device, with_norms=logged)
        state.step += 1
        state.batches_done += 1
        self.watch.push(state.step, batch.paths, report.losses)
        if logged:
            self.watch.flush()
            before, since = self._interval
            self._interval = (state.step, time.perf_counter())
            speed = (state.step - before) / max(self._interval[1] - since, 1e-9)
            rate = learning_rate(self.config, state.epoch)
            log.step(state.step, state.epoch, report, rate, on_device, speed)
        return report

    def _save(self) -> None:
        """Saves this step unless it is saved already; never anything that is not finite."""
        if self.state.step == self._saved_step:
            return
        self.watch.flush()
        require_finite_weights([self.step.net_g, self.step.net_d], self.state.step)
        self.saved, _ = save_state(self.folder, self.state, self.step, self.config)
        self._saved_step = self.state.step
        logger.info("saved %s", self.saved)

    @torch.no_grad()
    def _validate(self, validation: list[Item], stop: StopRequest, log: TrainingLog) -> None:
        """Sings the validation clips and measures how far their mels are; training's random numbers stay untouched."""
        net, audio = self.step.net_g, self.config.audio
        net.eval()
        distances = []
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            for index, item in enumerate(validation):
                if stop.requested:
                    break
                made, real = self._sing(item), item.wav[: _validation_samples(audio)]
                log.validation_clip(self.state.step, index, made, real)
                mels = [mel_spectrogram(wav.float().cpu()[: len(real)], audio) for wav in (made, real)]
                log.validation_mel(self.state.step, index, *mels)
                distances.append(float(F.l1_loss(*mels)))
        net.train()
        if distances and not stop.requested:
            mean = sum(distances) / len(distances)
            log.validation_loss(self.state.step, mean)
            logger.info("step %d: %d validation clips, mel distance %.3f", self.state.step, len(distances), mean)

    def _sing(self, item: Item) -> torch.Tensor:
        """A validation clip (T,) in its own voice, at its own pitch."""
        n_frames = _validation_samples(self.config.audio) // self.config.audio.hop_length
        units, f0, uv, volume = (
            None if x is None else x[..., :n_frames][None].to(self.device)
            for x in (item.units, item.f0, item.uv, item.volume)
        )
        speaker = torch.tensor([item.speaker], device=self.device)
        wav, _ = self.step.net_g.infer(units, f0, uv, speaker, vol=volume)
        return wav[0, 0]

    def _finished(self, max_steps: int | None) -> bool:
        reached = max_steps is not None and self.state.step >= max_steps
        return reached or self.state.epoch > self.config.train.epochs

    def _last_step(self, n_batches: int, max_steps: int | None) -> int:
        epochs_left = self.config.train.epochs - self.state.epoch + 1
        last = self.state.step + epochs_left * n_batches - self.state.batches_done
        return last if max_steps is None else min(last, max_steps)


def _validation_samples(audio: AudioSpec) -> int:
    return int(VALIDATION_SECONDS * audio.frame_rate) * audio.hop_length


def _short(report: StepReport) -> str:
    losses = report.losses
    return " ".join(f"{name} {float(getattr(losses, name)):.2f}" for name in ("disc", "gen", "fm", "mel", "kl"))
