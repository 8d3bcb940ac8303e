"""One training step of the voice model: discriminators first, then the generator against them."""

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from modules.audio.mel import mel_from_spectrogram, mel_spectrogram
from modules.config.schema import Config
from modules.data.dataset import Batch
from modules.device import autocast
from modules.nn.masks import slice_frames
from modules.training.distributed import Group, no_sync, share_gradients
from modules.training.loop import TrainState
from modules.training.losses import adversarial_loss, discriminator_loss, feature_loss, kl_loss, stft_loss
from modules.training.optim import AveragedWeights, Updates, make_adamw

# What of the voice model a stage trains: all of it against the discriminators; all of it alone; its prior alone.
STAGES = ("all", "generator", "prior")


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


class Generated(NamedTuple):
    """What the generator makes of a batch: segments as waves (B, 1, T) and as mels (B, M, N), all in fp32; None where
    nothing is decoded."""

    out: NamedTuple  # of the network
    real: torch.Tensor | None = None
    wav: torch.Tensor | None = None
    mel_real: torch.Tensor | None = None
    mel: torch.Tensor | None = None


class StepReport(NamedTuple):
    """What a step found; mels and curves are of its last batch."""

    losses: Losses
    norms: tuple[torch.Tensor, torch.Tensor]  # gradients of discriminators and generator, before they were clipped
    mel_real: torch.Tensor | None
    mel_generated: torch.Tensor | None
    lf0: torch.Tensor | None
    norm_lf0: torch.Tensor | None
    pred_lf0: torch.Tensor | None

    def __str__(self) -> str:
        return " ".join(f"{name} {float(value):.2f}" for name, value in zip(Losses._fields[:5], self.losses))


class VitsStep:
    """Both networks, on `device`, with their optimizers.

    Args:
        net_g: the voice model; called as `SynthesizerTrn.forward` and returning what that returns.
        net_d: the discriminators: wave (B, 1, T) to scores and maps.
        group: the ranks that train together; their gradients are averaged. None trains alone.
        stage: one of `STAGES`. "generator" leaves the discriminators out, so that the decoder learns as a vocoder does
            from spectra first, at half the time of a step. "prior" decodes nothing: units are brought to the posterior
            encoder's latents, which stay, as do decoder and speaker vectors.
    """

    def __init__(
        self,
        net_g: nn.Module,
        net_d: nn.Module,
        config: Config,
        device: torch.device,
        group: Group | None = None,
        stage: str = "all",
    ) -> None:
        self.net_g, self.net_d, self.config, self.device = net_g, net_d, config, device
        self.networks, self.stage = [net_g, net_d], stage
        if stage == "prior":
            for part in (net_g.dec, net_g.enc_q, net_g.emb_g):
                part.requires_grad_(False)
        self.audio, self.segment_frames = config.audio, config.segment_frames
        train = config.train
        self.accumulate = train.accumulate
        self.log_interval, self.save_interval = train.log_interval, train.eval_interval
        self.not_finite_hint = "lower train.learning_rate, or set train.fp16_run to false"
        self.memory_hint = f"Lower train.batch_size (it is {train.batch_size}) or train.segment_size"
        self.optim_g, self.optim_d = (
            make_adamw(net, device, train.learning_rate, tuple(train.betas), train.eps) for net in self.networks
        )
        self.dtype = half_dtype(config, device)
        self.updates = Updates(device, self.dtype, train.clip_grad)
        self.averaged = AveragedWeights(net_g, train.ema_decay) if train.ema_decay else None
        self.bandwidth = None  # (S,) Hz of each speaker's recordings, above which they hold no sound
        if train.bandwidth:
            limits = torch.full((config.model.n_speakers,), float("inf"))
            limits[[config.spk[name] for name in train.bandwidth]] = torch.tensor(list(train.bandwidth.values()))
            self.bandwidth = limits.to(device)
        self.is_adversarial = stage == "all"  # the discriminators take part; without, their losses are zero
        self.is_linear = False  # the decoder's upsampling is held at linear interpolation of learned mixes of channels
        self._began_linear: bool | None = None
        # These two add the averaging over ranks; only passes whose gradients are wanted go through them.
        self._generator, self._discriminator = (share_gradients(net, group) for net in self.networks)

    @property
    def voice(self) -> nn.Module:
        """The network to convert with: the averaged one where there is one."""
        return self.net_g if self.averaged is None else self.averaged.module

    def compile(self, **options: Any) -> None:
        """Compiles both networks at their next passes, as torch.compile; `infer` stays as it is."""
        self.net_g.compile(**options)
        self.net_d.compile(**options)

    def prepare(self, state: TrainState) -> float:
        """Sets what follows from how far a run is: `train.adversarial_from`, `train.linear_upsampling_steps`, and the
        learning rate, which it returns.

        An untrained decoder learns within twenty steps to buzz at the frame rate, which fits all mels a little, and it
        takes thousands until it follows the pitch. Its upsampling starts as linear interpolation; held there for a
        while, it cannot buzz, and shapes the harmonic source instead.
        """
        train, rate = self.config.train, learning_rate(self.config, state.epoch)
        for group in [*self.optim_g.param_groups, *self.optim_d.param_groups]:
            group["lr"] = rate
        self.is_adversarial = self.stage == "all" and (state.has_base or state.step >= train.adversarial_from)
        if self._began_linear is None:  # a base that was made so stays so; making any other linear would ruin it
            self._began_linear = self.net_g.dec.is_interpolation()
        self.is_linear = self._began_linear and state.step < train.linear_upsampling_steps
        return rate

    def run(self, batches: list[Batch]) -> StepReport:
        """Updates both networks once, from batches on the device; returns losses averaged over all of them.

        With one batch, the generator learns from discriminators that have just been updated, as so-vits-svc does it.
        With several, their gradients are averaged: both networks see all of them before either is updated.
        """
        weight = 1 / len(batches)
        for optimizer in (self.optim_d, self.optim_g):
            optimizer.zero_grad(set_to_none=True)
        losses, norm_d = [], None
        for index, batch in enumerate(batches):
            with no_sync(self._generator, self._discriminator, when=index < len(batches) - 1):
                generated = self._generator_forward(batch)
                loss_d = self._discriminator_loss(generated, weight)
                if len(batches) == 1:
                    norm_d = self._update_discriminators()
                losses.append(self._generator_loss(generated, loss_d, weight))
        if norm_d is None:
            norm_d = self._update_discriminators()
        norm_g = self.updates.step(self.optim_g)
        if self.is_linear:
            self.net_g.dec.hold_interpolation()
        self.updates.end()
        if self.averaged is not None:
            self.averaged.update_parameters(self.net_g)
        mean = Losses(*(torch.stack(values).mean() for values in zip(*losses)))
        out = generated.out
        curves = (None if x is None else x.detach() for x in (out.lf0, out.norm_lf0, out.pred_lf0))
        mel = None if generated.mel is None else generated.mel.detach()
        return StepReport(mean, (norm_d, norm_g), generated.mel_real, mel, *curves)

    def _generator_forward(self, batch: Batch) -> Generated:
        hop, (units, f0, uv, spec, _, speakers, lengths, volume, _) = self.audio.hop_length, batch
        with autocast(self.device, self.dtype):
            out = self._generator(units, f0, uv, spec, speakers, lengths, lengths, volume, self.stage != "prior")
        if out.y_hat is None:
            return Generated(out)
        real = slice_frames(batch.wav, out.ids_slice * hop, self.segment_frames * hop)
        wav = out.y_hat.float()
        if self.bandwidth is None:
            mel_real = mel_from_spectrogram(slice_frames(spec, out.ids_slice, self.segment_frames), self.audio)
        else:
            limits = self.bandwidth[speakers]
            real, wav = (limit_bandwidth(x, limits, self.audio.sampling_rate) for x in (real, wav))
            mel_real = mel_spectrogram(real.squeeze(1), self.audio)
        mel = mel_spectrogram(wav.squeeze(1), self.audio)
        return Generated(out, real, wav, mel_real, mel)

    def _discriminator_loss(self, generated: Generated, weight: float) -> torch.Tensor:
        """The discriminators' loss and its gradient; real and generated waves go through in one batch."""
        if not self.is_adversarial:
            return torch.zeros((), device=self.device)
        self.net_d.requires_grad_(True)
        with autocast(self.device, self.dtype):
            scores, _ = self._discriminator(torch.cat([generated.real, generated.wav.detach()]))
        scores_real, scores_generated = zip(*(score.chunk(2) for score in scores))
        loss = discriminator_loss(list(scores_real), list(scores_generated))
        self.updates.backward(loss * weight)
        return loss.detach()

    def _generator_loss(self, generated: Generated, loss_d: torch.Tensor, weight: float) -> Losses:
        """The generator's losses and their gradient."""
        out, real, wav, mel_real, mel_generated = generated
        gen, fm = self._adversarial_loss(real, wav)
        train, zero = self.config.train, torch.zeros((), device=self.device)
        mel = zero if wav is None else train.c_mel * F.l1_loss(mel_generated, mel_real)
        kl = train.c_kl * kl_loss(out.z_p, out.logs_q, out.m_p, out.logs_p, out.z_mask)
        stft = train.c_stft * stft_loss(real.squeeze(1), wav.squeeze(1)) if train.c_stft and wav is not None else zero
        lf0 = zero if out.pred_lf0 is None else F.mse_loss(out.pred_lf0.float(), out.lf0.float())
        total = gen + fm + mel + kl + lf0 + stft
        self.updates.backward(total * weight)
        return Losses(*(loss.detach() for loss in (loss_d, gen, fm, mel, kl, lf0, stft, total)))

    def _adversarial_loss(self, real: torch.Tensor, generated: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Adversarial and feature loss of the generator; no gradient is spent on the discriminators' weights."""
        if not self.is_adversarial:
            return torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        self.net_d.requires_grad_(False)
        with autocast(self.device, self.dtype):
            with torch.no_grad():
                _, maps_real = self.net_d(real)
            scores, maps = self.net_d(generated)
        return adversarial_loss(scores), feature_loss(maps_real, maps)

    def _update_discriminators(self) -> torch.Tensor:
        return self.updates.step(self.optim_d) if self.is_adversarial else torch.zeros((), device=self.device)


def limit_bandwidth(wav: torch.Tensor, limits: torch.Tensor, sampling_rate: int) -> torch.Tensor:
    """Waves (B, 1, T) without what they hold above `limits` (B,) Hz.

    Of a recording made at 16 kHz nothing can be learned about the sound above 8 kHz, least of all that there is none.
    """
    frequencies = torch.fft.rfftfreq(wav.shape[-1], 1 / sampling_rate, device=wav.device)
    return torch.fft.irfft(torch.fft.rfft(wav) * (frequencies <= limits[:, None, None]), n=wav.shape[-1])


def half_dtype(config: Config, device: torch.device) -> torch.dtype:
    """Precision of the networks' forward passes: fp32, or what `train.half_type` says with `train.fp16_run`."""
    if not config.train.fp16_run:
        return torch.float32
    if config.train.half_type == "bf16":
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32  # scaled gradients are for CUDA only


def learning_rate(config: Config, epoch: int) -> float:
    """The rate of an epoch (counted from 1): a linear rise over the warm-up epochs, then a steady decay."""
    train = config.train  # of the epoch alone, so stopping and resuming cannot multiply a factor twice
    if epoch <= train.warmup_epochs:
        return train.learning_rate * epoch / train.warmup_epochs
    return train.learning_rate * train.lr_decay ** (epoch - max(train.warmup_epochs, 1))
