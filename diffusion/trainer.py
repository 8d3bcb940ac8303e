"""Training of the diffusion model: its step, checkpoints and validation in the loop of `modules/training`."""

import logging
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from diffusion.dataset import Batch, Item
from diffusion.state import Learner, load_start, save_state
from diffusion.unit2mel import Unit2Mel
from modules.config.diffusion import DiffusionConfig
from modules.contracts import MelVocoder
from modules.device import autocast, choose_dtype, seeded
from modules.training.distributed import Group
from modules.training.guards import StopRequest
from modules.training.optim import Updates, make_adamw
from modules.training.sharing import share_gradients, together
from modules.training.tensorboard import Pace, mel_picture
from modules.training.trainer import Remedies, Rhythm, Trainer

logger = logging.getLogger(__name__)

VALIDATION_SECONDS = 6.0  # of each clip
VALIDATION_LEVELS = 8  # noise levels at which the loss of a clip is measured, evenly spread


class Losses(NamedTuple):
    """The one loss."""

    noise: torch.Tensor


class Report(NamedTuple):
    """What a step found: the loss, and the length of the gradient."""

    losses: Losses
    grad_norm: torch.Tensor

    @property
    def norms(self) -> tuple[torch.Tensor]:
        """Lengths of the gradients."""
        return (self.grad_norm,)


class DiffusionTrainer(Trainer):
    """Trains a diffusion model in a folder of its own.

    Args:
        network: on the group's device.
        config: the run's configuration.
        group: the ranks that train together, and where this one trains.
        folder: for checkpoints and logs; what it holds already decides where the run starts.
        vocoder: makes the sounds of validation; None leaves them out.
        show_progress: draw a progress bar.
    """

    def __init__(
        self,
        network: Unit2Mel,
        config: DiffusionConfig,
        group: Group,
        folder: Path,
        vocoder: MelVocoder | None = None,
        show_progress: bool = True,
    ) -> None:
        train = config.train
        memory = f"Lower train.batch_size (it is {train.batch_size}) or data.duration"
        remedies = Remedies("lower train.lr, or set train.amp_dtype to fp32", memory)
        super().__init__(
            Rhythm(train.interval_log, train.interval_val, train.epochs), remedies, group, folder, show_progress
        )
        self.config, self.vocoder = config, vocoder
        self.dtype = training_dtype(config, group.device)
        optimizer = make_adamw(network, group.device, train.lr, weight_decay=train.weight_decay)
        self.learner = Learner(network, optimizer, Updates(group.device, self.dtype))
        self._loss = share_gradients(network, group)

    def start(self) -> None:
        """Goes to where the folder's checkpoints say: on from the newest, or from a base model, or from nothing.

        Raises:
            CheckpointError: a checkpoint is damaged or does not fit the config.
        """
        with together(self.group):
            state, path = load_start(self.folder, self.learner, self.config, self.group)
        self.continue_from(state, path)

    def networks(self) -> list[nn.Module]:
        """The one network."""
        return [self.learner.network]

    def learning_rate(self) -> float:
        """The rate of the coming step: times gamma after every `decay_step` steps.

        A function of the step alone, so stopping and resuming cannot multiply a factor twice.
        """
        train = self.config.train
        rate = train.lr * train.gamma ** (self.state.step // train.decay_step)
        for group in self.learner.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def advance(self, batches: list[Batch]) -> Report:
        """Updates the network once."""
        (batch,) = batches
        optimizer, updates = self.learner.optimizer, self.learner.updates
        optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.dtype):
            loss = self._loss(batch.units, batch.f0, batch.volume, batch.speakers, batch.aug_shift, batch.mel)
        updates.backward(loss)
        norm = updates.step(optimizer)
        updates.end()
        return Report(Losses(loss.detach()), norm)

    def write_checkpoint(self, random_states: list[dict[str, torch.Tensor]]) -> Path:
        """Writes model_STEP.pt and state_STEP.pth."""
        return save_state(self.folder, self.state, self.learner, self.config, random_states)

    def open_log(self) -> "DiffusionLog":
        """TensorBoard events in `logs/` of the run's folder."""
        return DiffusionLog(self.folder / "logs", self.config.data.sampling_rate, self.state.step)

    def log_step(self, log: "DiffusionLog", report: Report, batch: Batch, rate: float, pace: Pace) -> None:
        """Logs the loss."""
        log.step(self.state.step, self.state.epoch, float(report.losses.noise), float(report.grad_norm), rate, pace)

    def describe(self, report: Report) -> str:
        """The loss."""
        return f"loss {float(report.losses.noise):.4f}"

    @torch.no_grad()
    def validate(self, validation: list[Item], stop: StopRequest, log: "DiffusionLog") -> None:
        """Measures the loss of the validation clips at fixed noise, and makes their mels; training's random numbers
        stay untouched."""
        self.learner.network.eval()
        n_frames = int(VALIDATION_SECONDS * self.config.data.sampling_rate / self.config.data.block_size)
        losses = []
        for item in validation:
            if stop.requested:
                break
            with seeded(self.device, self.config.train.seed):
                real = item.mel[:, :n_frames].float().to(self.device)
                condition = self._condition(item, n_frames)
                losses.append(float(self._loss_at_levels(condition, real[None])))
                made = self._make(condition, real)
                name = "_".join(Path(item.path).parts[-2:])
                log.validation_mel(self.state.step, name, made, real)
                if self.vocoder is not None:
                    f0 = item.f0[:n_frames].to(self.device)
                    for kind, mel in (("gt", real), ("pred", made)):
                        log.validation_clip(self.state.step, f"{name}_{kind}.wav", self.vocoder.synthesize(mel, f0))
        if losses and not stop.requested:
            mean = sum(losses) / len(losses)
            log.validation_loss(self.state.step, mean)
            logger.info("step %d: %d validation clips, loss %.4f", self.state.step, len(losses), mean)

    def _condition(self, item: Item, n_frames: int) -> torch.Tensor:
        units, f0, volume = (
            x[..., :n_frames][None].float().to(self.device) for x in (item.units, item.f0, item.volume)
        )
        speaker = torch.tensor([item.speaker], device=self.device)
        with autocast(self.device, self.dtype):
            return self.learner.network.condition(units, f0, volume, speaker)

    def _loss_at_levels(self, condition: torch.Tensor, mel: torch.Tensor) -> torch.Tensor:
        """The mean loss over evenly spread noise levels."""
        decoder = self.learner.network.decoder
        levels = torch.linspace(0, decoder.k_step_max - 1, VALIDATION_LEVELS).round().long().tolist()
        with autocast(self.device, self.dtype):
            return torch.stack([decoder.loss(condition, mel, level) for level in levels]).mean()

    def _make(self, condition: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """A mel (M, N): from noise, or, where only a part of the chain is trained, from the real one in that noise."""
        decoder, infer = self.learner.network.decoder, self.config.infer
        mel = real[None] if decoder.k_step_max < self.config.model.timesteps else None
        with autocast(self.device, self.dtype):
            return decoder.sample(condition, decoder.k_step_max, infer.method, max(1, infer.speedup), mel)[0]


class DiffusionLog:
    """TensorBoard events of a run, under upstream's names.

    Args:
        folder: where they go.
        sampling_rate: of the sounds, Hz.
        step: where the run goes on; what a run that was killed logged after it is hidden.
    """

    def __init__(self, folder: Path, sampling_rate: int, step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.sampling_rate = sampling_rate
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def close(self) -> None:
        """Flushes the file."""
        self._writer.close()

    def step(self, step: int, epoch: int, loss: float, norm: float, rate: float, pace: Pace) -> None:
        """Logs one step: its loss, the length of its gradient, the learning rate and the pace."""
        logger.info("step %d, epoch %d: loss %.4f, lr %.4g, %s", step, epoch, loss, rate, pace)
        for name, value in {"train/loss": loss, "train/grad_norm": norm, "train/lr": rate}.items():
            self._writer.add_scalar(name, value, step)

    def validation_mel(self, step: int, name: str, made: torch.Tensor, real: torch.Tensor) -> None:
        """Draws the real and the made mel (M, N) of a clip, one above the other."""
        both = torch.cat([made.float().cpu(), real.float().cpu()])
        self._writer.add_image(name, mel_picture(both), step, dataformats="HWC")

    def validation_clip(self, step: int, name: str, wav: torch.Tensor) -> None:
        """Logs a sound (T,)."""
        self._writer.add_audio(name, wav.float().cpu().clamp(-1, 1)[None], step, self.sampling_rate)

    def validation_loss(self, step: int, loss: float) -> None:
        """Logs the mean loss of all clips."""
        self._writer.add_scalar("validation/loss", loss, step)
        self._writer.flush()


def training_dtype(config: DiffusionConfig, device: torch.device) -> torch.dtype:
    """Precision of the forward pass: `train.amp_dtype`; fp16 needs scaled gradients, so without CUDA it is fp32."""
    dtype = choose_dtype(config.train.amp_dtype)
    return torch.float32 if dtype == torch.float16 and device.type != "cuda" else dtype
