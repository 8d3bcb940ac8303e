"""Training of the diffusion model: its step, and what a run reports. The loop is in `train_diff.py`."""

import logging
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from diffusion.dataset import Batch, Item
from diffusion.unit2mel import Unit2Mel
from modules.config.diffusion import DiffusionConfig
from modules.contracts import MelVocoder
from modules.device import autocast, choose_dtype, seeded
from modules.training.distributed import Group, share_gradients
from modules.training.guards import StopRequest
from modules.training.loop import Pace, TrainState
from modules.training.optim import Updates, make_adamw
from modules.training.tensorboard import Events, mel_picture

logger = logging.getLogger(__name__)

VALIDATION_SECONDS = 6.0  # of each clip
VALIDATION_LEVELS = 8  # noise levels at which the loss of a clip is measured, evenly spread


class Losses(NamedTuple):
    """The one loss."""

    noise: torch.Tensor


class Report(NamedTuple):
    """What a step found."""

    losses: Losses
    norms: tuple[torch.Tensor]  # length of the gradient

    def __str__(self) -> str:
        return f"loss {float(self.losses.noise):.4f}"


class DiffusionStep:
    """The network, on the group's device, with its optimizer; gradients are averaged over the group."""

    def __init__(self, network: Unit2Mel, config: DiffusionConfig, group: Group) -> None:
        train = config.train
        self.network, self.config, self.device = network, config, group.device
        self.networks, self.accumulate = [network], 1
        self.log_interval, self.save_interval = train.interval_log, train.interval_val
        self.not_finite_hint = "lower train.lr, or set train.amp_dtype to fp32"
        self.memory_hint = f"Lower train.batch_size (it is {train.batch_size}) or data.duration"
        self.dtype = training_dtype(config, group.device)
        self.optimizer = make_adamw(network, group.device, train.lr, weight_decay=train.weight_decay)
        self.updates = Updates(group.device, self.dtype)
        self._loss = share_gradients(network, group)

    def prepare(self, state: TrainState) -> float:
        """Sets the learning rate of the coming step and returns it: times gamma after every `decay_step` steps."""
        train = self.config.train
        rate = train.lr * train.gamma ** (state.step // train.decay_step)  # of the step alone: resuming is exact
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def run(self, batches: list[Batch]) -> Report:
        """Updates the network once, from one batch on the device."""
        (batch,) = batches
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.dtype):
            loss = self._loss(batch.units, batch.f0, batch.volume, batch.speakers, batch.aug_shift, batch.mel)
        self.updates.backward(loss)
        norm = self.updates.step(self.optimizer)
        self.updates.end()
        return Report(Losses(loss.detach()), (norm,))


class DiffusionMonitor:
    """Logs the steps of a run to `folder` and validates it with `clips`; curves have so-vits-svc's names."""

    def __init__(
        self, step: DiffusionStep, state: TrainState, folder: Path, clips: list[Item], vocoder: MelVocoder | None = None
    ) -> None:  # without a vocoder, validation makes no sounds
        self.step, self.state, self.folder, self.clips, self.vocoder = step, state, folder, clips, vocoder

    def __enter__(self) -> "DiffusionMonitor":
        self._events = Events(self.folder, self.state.step)
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()

    def log_step(self, report: Report, batch: Batch, rate: float, pace: Pace) -> None:
        """Logs the step just made."""
        logger.info("step %d, epoch %d: %s, lr %.4g, %s", self.state.step, self.state.epoch, report, rate, pace)
        curves = {"train/loss": float(report.losses.noise), "train/grad_norm": float(report.norms[0]), "train/lr": rate}
        for name, value in curves.items():
            self._events.add_scalar(name, value, self.state.step)

    @torch.no_grad()
    def validate(self, stop: StopRequest) -> None:
        """Measures the clips' loss at fixed noise, and makes their mels; training's random numbers stay untouched."""
        step, data, n_steps = self.step, self.step.config.data, self.state.step
        step.network.eval()
        n_frames = int(VALIDATION_SECONDS * data.sampling_rate / data.block_size)
        losses = []
        bar = tqdm(self.clips, "evaluate", unit="clip", leave=False, dynamic_ncols=True, delay=1)
        for item in bar:
            if stop.requested:
                return
            with seeded(step.device, step.config.train.seed):
                real = item.mel[:, :n_frames].float().to(step.device)
                condition = self._condition(item, n_frames)
                losses.append(float(self._loss_at_levels(condition, real[None])))
                generated = self._generate(condition, real)
                name = "_".join(Path(item.path).parts[-2:])
                both = torch.cat([generated.float().cpu(), real.cpu()])  # one above the other
                self._events.add_picture(name, partial(mel_picture, both), n_steps)
                if self.vocoder is not None:
                    f0 = item.f0[:n_frames].to(step.device)
                    for kind, mel in (("gt", real), ("pred", generated)):
                        wav = self.vocoder.synthesize(mel, f0)
                        self._events.add_sound(f"{name}_{kind}.wav", wav, n_steps, data.sampling_rate)
        if losses and not stop.requested:
            mean = sum(losses) / len(losses)
            self._events.add_scalar("validation/loss", mean, n_steps)
            self._events.flush()
            logger.info("step %d: %d validation clips, loss %.4f", n_steps, len(losses), mean)

    def _condition(self, item: Item, n_frames: int) -> torch.Tensor:
        device = self.step.device
        units, f0, volume = (x[..., :n_frames][None].float().to(device) for x in (item.units, item.f0, item.volume))
        speaker = torch.tensor([item.speaker], device=device)
        with autocast(device, self.step.dtype):
            return self.step.network.condition(units, f0, volume, speaker)

    def _loss_at_levels(self, condition: torch.Tensor, mel: torch.Tensor) -> torch.Tensor:
        """The mean loss over evenly spread noise levels."""
        decoder = self.step.network.decoder
        levels = torch.linspace(0, decoder.k_step_max - 1, VALIDATION_LEVELS).round().long().tolist()
        with autocast(self.step.device, self.step.dtype):
            return torch.stack([decoder.loss(condition, mel, level) for level in levels]).mean()

    def _generate(self, condition: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """A mel (M, N): from noise, or, where only a part of the chain is trained, from the real one in that noise."""
        decoder, config = self.step.network.decoder, self.step.config
        mel, infer = real[None] if decoder.k_step_max < config.model.timesteps else None, config.infer
        with autocast(self.step.device, self.step.dtype):
            return decoder.sample(condition, decoder.k_step_max, infer.method, max(1, infer.speedup), mel)[0]


def training_dtype(config: DiffusionConfig, device: torch.device) -> torch.dtype:
    """Precision of the forward pass: `train.amp_dtype`; fp16 needs scaled gradients, so without CUDA it is fp32."""
    dtype = choose_dtype(config.train.amp_dtype)
    return torch.float32 if dtype == torch.float16 and device.type != "cuda" else dtype
