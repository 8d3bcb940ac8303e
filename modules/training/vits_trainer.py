"""Training of the voice model: its step, checkpoints and validation in the loop of `trainer.py`.

It receives finished networks; which ones they are is the script's business.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from modules.audio.mel import mel_spectrogram
from modules.config.audio import AudioSpec
from modules.config.schema import Config
from modules.data.dataset import Batch, Item
from modules.training.guards import StopRequest
from modules.training.logging import TrainingLog
from modules.training.state import Start, find_start, load_start, save_state
from modules.training.step import StepReport, VitsStep, learning_rate
from modules.training.trainer import Remedies, Rhythm, Trainer

logger = logging.getLogger(__name__)

VALIDATION_SECONDS = 15.0  # of each clip; more takes long on a CPU and tells no more


class VitsTrainer(Trainer):
    """Trains the voice model in a folder of its own.

    Args:
        net_g: the voice model, on `device`; it needs `forward` and `infer` of `SynthesizerTrn`.
        net_d: the discriminators, on `device`.
        config: the run's configuration.
        device: where to train.
        folder: for checkpoints and logs; what it holds already decides where the run starts.
        show_progress: draw a progress bar.

    Attributes:
        extras: plain values that every G_STEP.pth carries besides what training needs; none at first.
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
        train = config.train
        memory = f"Lower train.batch_size (it is {train.batch_size}) or train.segment_size"
        remedies = Remedies("lower train.learning_rate, or set train.fp16_run to false", memory)
        rhythm = Rhythm(train.log_interval, train.eval_interval, train.epochs)
        super().__init__(rhythm, remedies, device, folder, show_progress)
        self.config = config
        self.step = VitsStep(net_g, net_d, config, device)
        self.extras: dict[str, Any] = {}

    def start(self) -> Start:
        """Goes to where the folder's checkpoints say: on from the newest pair, or from a base model, or from nothing.

        Raises:
            CheckpointError: a checkpoint is damaged or does not fit the config.
        """
        start = find_start(self.folder)
        self.continue_from(load_start(start, self.step, self.config), start.g if start.step else None)
        return start

    def networks(self) -> list[nn.Module]:
        """Generator and discriminators."""
        return [self.step.net_g, self.step.net_d]

    def learning_rate(self) -> float:
        """The rate of the current epoch."""
        rate = learning_rate(self.config, self.state.epoch)
        self.step.set_learning_rate(rate)
        return rate

    def advance(self, batch: Batch, logged: bool) -> StepReport:
        """Updates both networks once."""
        return self.step.run(batch, with_norms=logged)

    def write_checkpoint(self) -> Path:
        """Writes G_STEP.pth and D_STEP.pth."""
        return save_state(self.folder, self.state, self.step, self.config, self.extras)[0]

    def open_log(self) -> TrainingLog:
        """TensorBoard events in the run's folder."""
        return TrainingLog(self.folder, self.config.audio, self.state.step)

    def log_step(self, log: TrainingLog, report: StepReport, batch: Batch, rate: float, speed: float) -> None:
        """Logs losses, norms and pictures."""
        log.step(self.state.step, self.state.epoch, report, rate, batch, speed)

    def describe(self, report: StepReport) -> str:
        """The losses that tell most."""
        losses = report.losses
        return " ".join(f"{name} {float(getattr(losses, name)):.2f}" for name in ("disc", "gen", "fm", "mel", "kl"))

    @torch.no_grad()
    def validate(self, validation: list[Item], stop: StopRequest, log: TrainingLog) -> None:
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


def _validation_samples(audio: AudioSpec) -> int:
    return int(VALIDATION_SECONDS * audio.frame_rate) * audio.hop_length
