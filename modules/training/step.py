"""One training step of the voice model: discriminators first, then the generator against them.

Knows networks only by what they return, so any pair with the same outputs can be trained.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from modules.audio.mel import mel_from_spectrogram, mel_spectrogram
from modules.config.schema import Config
from modules.data.dataset import Batch
from modules.device import autocast
from modules.losses import adversarial_loss, discriminator_loss, feature_loss, kl_loss, stft_loss
from modules.nn.masks import slice_frames


class Losses(NamedTuple):
    """Scalars of one step: `disc` trains the discriminators, the sum of the others, `total`, the generator."""

    disc: torch.Tensor
    gen: torch.Tensor
    fm: torch.Tensor
    mel: torch.Tensor
    kl: torch.Tensor
    lf0: torch.Tensor
    stft: torch.Tensor
    total: torch.Tensor


class StepReport(NamedTuple):
    """What a step found: losses, lengths of both gradients (None unless asked for), pictures and curves to log."""

    losses: Losses
    grad_norm_d: torch.Tensor | None
    grad_norm_g: torch.Tensor | None
    mel_real: torch.Tensor
    mel_made: torch.Tensor
    lf0: torch.Tensor | None
    norm_lf0: torch.Tensor | None
    pred_lf0: torch.Tensor | None


class VitsStep:
    """Both networks with their optimisers.

    Args:
        net_g: the voice model; called as `SynthesizerTrn.forward` and returning what that returns.
        net_d: the discriminators: wave (B, 1, T) to scores and maps.
        config: losses, optimiser and precision.
        device: where both networks are.
    """

    def __init__(self, net_g: nn.Module, net_d: nn.Module, config: Config, device: torch.device) -> None:
        self.net_g, self.net_d, self.config, self.device = net_g, net_d, config, device
        self.audio, self.segment_frames = config.audio, config.segment_frames
        self.optim_g, self.optim_d = (make_optimizer(net, config, device) for net in (net_g, net_d))
        self.dtype = half_dtype(config, device)
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.dtype == torch.float16)

    def set_learning_rate(self, rate: float) -> None:
        """Gives both optimisers a learning rate."""
        for group in [*self.optim_g.param_groups, *self.optim_d.param_groups]:
            group["lr"] = rate

    def run(self, batch: Batch, with_norms: bool = False) -> StepReport:
        """Updates both networks once.

        Args:
            batch: on the device.
            with_norms: measure the length of the gradients.
        """
        hop = self.audio.hop_length
        with autocast(self.device, self.dtype):
            out = self.net_g(
                batch.units, batch.f0, batch.uv, batch.spec, batch.speakers, batch.lengths, batch.lengths, batch.volume
            )
        y = slice_frames(batch.wav, out.ids_slice * hop, self.segment_frames * hop)
        y_hat = out.y_hat.float()
        mel_real = mel_from_spectrogram(slice_frames(batch.spec, out.ids_slice, self.segment_frames), self.audio)
        mel_made = mel_spectrogram(y_hat.squeeze(1), self.audio)

        loss_d = self._discriminate(y, y_hat.detach())
        norm_d = self._update(self.optim_d, loss_d, with_norms)

        gen, fm = self._deceive(y, y_hat)
        mel = self.config.train.c_mel * F.l1_loss(mel_made, mel_real)
        kl = self.config.train.c_kl * kl_loss(out.z_p, out.logs_q, out.m_p, out.logs_p, out.z_mask)
        zero = torch.zeros((), device=self.device)
        c_stft = self.config.train.c_stft
        stft = c_stft * stft_loss(y.squeeze(1), y_hat.squeeze(1)) if c_stft else zero
        if out.pred_lf0 is None:
            lf0 = zero
        else:
            lf0 = F.mse_loss(out.pred_lf0.float(), out.lf0.float())
        total = gen + fm + mel + kl + lf0 + stft
        norm_g = self._update(self.optim_g, total, with_norms)
        self.scaler.update()
        losses = Losses(*(loss.detach() for loss in (loss_d, gen, fm, mel, kl, lf0, stft, total)))
        curves = (None if x is None else x.detach() for x in (out.lf0, out.norm_lf0, out.pred_lf0))
        return StepReport(losses, norm_d, norm_g, mel_real, mel_made.detach(), *curves)

    def _discriminate(self, y: torch.Tensor, y_hat: torch.Tensor) -> torch.Tensor:
        """The discriminators' loss; real and made waves go through in one batch."""
        self.net_d.requires_grad_(True)
        with autocast(self.device, self.dtype):
            scores, _ = self.net_d(torch.cat([y, y_hat]))
        real, made = zip(*(score.chunk(2) for score in scores))
        return discriminator_loss(list(real), list(made))

    def _deceive(self, y: torch.Tensor, y_hat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Adversarial and feature loss of the generator; no gradient is spent on the discriminators' weights."""
        self.net_d.requires_grad_(False)
        with autocast(self.device, self.dtype):
            with torch.no_grad():
                _, maps_real = self.net_d(y)
            scores, maps = self.net_d(y_hat)
        return adversarial_loss(scores), feature_loss(maps_real, maps)

    def _update(self, optimizer: torch.optim.Optimizer, loss: torch.Tensor, with_norm: bool) -> torch.Tensor | None:
        optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(optimizer)
        norm = gradient_norm(optimizer) if with_norm else None
        self.scaler.step(optimizer)
        return norm


def make_optimizer(net: nn.Module, config: Config, device: torch.device) -> torch.optim.AdamW:
    """AdamW as upstream has it: weight decay 0.01, betas and eps of the config."""
    train = config.train
    return torch.optim.AdamW(
        net.parameters(),
        lr=train.learning_rate,
        betas=tuple(train.betas),
        eps=train.eps,
        fused=device.type in ("cpu", "cuda"),  # one kernel for hundreds of small tensors
    )


def gradient_norm(optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """Euclidean length of all gradients together, a scalar on their device."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


def half_dtype(config: Config, device: torch.device) -> torch.dtype:
    """Precision of the networks' forward passes: fp32, or what `train.half_type` says with `train.fp16_run`.

    fp16 needs scaled gradients, which only CUDA has here; elsewhere it means fp32.
    """
    if not config.train.fp16_run:
        return torch.float32
    if config.train.half_type == "bf16":
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


def learning_rate(config: Config, epoch: int) -> float:
    """The rate of an epoch (counted from 1): a linear rise over the warm-up epochs, then a steady decay.

    Written as a function of the epoch alone, so stopping and resuming cannot multiply a factor twice.
    """
    train = config.train
    if epoch <= train.warmup_epochs:
        return train.learning_rate * epoch / train.warmup_epochs
    return train.learning_rate * train.lr_decay ** (epoch - max(train.warmup_epochs, 1))
