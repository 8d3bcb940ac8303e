"""A training step of the voice model written down as the papers have it, to measure ours against.

As so-vits-svc arranges it: the discriminators see real and made waves one after the other, the generator's step makes
gradients of their weights too and maps of the real waves with a graph, AdamW is not fused, every convolution is torch's
own, and the length of the gradient is summed up parameter by parameter.
"""

import torch
from torch import nn
from torch.nn import functional as F

from modules.audio.mel import mel_from_spectrogram, mel_spectrogram
from modules.nn.masks import slice_frames
from modules.nn.winograd import QuickConv1d, QuickConv2d
from modules.training.losses import adversarial_loss, discriminator_loss, feature_loss, kl_loss, stft_loss


class PlainStep:
    """Both networks with their optimizers, in fp32.

    Args:
        net_g, net_d, config, device: as `VitsStep` has them.
    """

    clock = None

    def __init__(self, net_g, net_d, config, device) -> None:
        self.net_g, self.net_d, self.config = net_g.to(device), net_d.to(device), config
        for layer in [*net_g.modules(), *net_d.modules()]:
            for quick, plain in ((QuickConv1d, nn.Conv1d), (QuickConv2d, nn.Conv2d)):
                if isinstance(layer, quick):
                    layer._conv_forward = plain._conv_forward.__get__(layer)
        self.optim_g, self.optim_d = (
            torch.optim.AdamW(
                net.parameters(), config.train.learning_rate, tuple(config.train.betas), config.train.eps, foreach=False
            )
            for net in (self.net_g, self.net_d)
        )

    def run(self, batch) -> None:
        """Updates both networks once."""
        train, audio, frames = self.config.train, self.config.audio, self.config.segment_frames
        inputs = (batch.units, batch.f0, batch.uv, batch.spec, batch.speakers, batch.lengths, batch.lengths)
        out = self.net_g(*inputs, batch.volume)
        y = slice_frames(batch.wav, out.ids_slice * audio.hop_length, frames * audio.hop_length)
        mel_real = mel_from_spectrogram(slice_frames(batch.spec, out.ids_slice, frames), audio)
        mel_made = mel_spectrogram(out.y_hat.squeeze(1), audio)

        real, _ = self.net_d(y)
        made, _ = self.net_d(out.y_hat.detach())
        self._update(self.optim_d, self.net_d, discriminator_loss(real, made))

        _, maps_real = self.net_d(y)
        scores, maps = self.net_d(out.y_hat)
        loss = adversarial_loss(scores) + feature_loss(maps_real, maps) + train.c_mel * F.l1_loss(mel_made, mel_real)
        loss = loss + train.c_kl * kl_loss(out.z_p, out.logs_q, out.m_p, out.logs_p, out.z_mask)
        if train.c_stft:
            loss = loss + train.c_stft * stft_loss(y.squeeze(1), out.y_hat.squeeze(1))
        if out.pred_lf0 is not None:
            loss = loss + F.mse_loss(out.pred_lf0, out.lf0)
        self._update(self.optim_g, self.net_g, loss)

    @staticmethod
    def _update(optimizer, network, loss) -> None:
        optimizer.zero_grad()
        loss.backward()
        sum(p.grad.norm().item() ** 2 for p in network.parameters() if p.grad is not None) ** 0.5  # logged upstream
        optimizer.step()
