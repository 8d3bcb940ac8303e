"""The losses of adversarial training and of the variational bound, all computed in fp32; each is a scalar.

Call them outside of autocast. Scores and maps come from discriminators: a list with one entry per discriminator.

Source: Mao et al., "Least Squares Generative Adversarial Networks", 2017, arXiv:1611.04076, equation 2 (targets 0 and
1); Kong, Kim and Bae, "HiFi-GAN", 2020, arXiv:2010.05646, equations 5 to 8; Kim, Kong and Son, "VITS", 2021,
arXiv:2106.06103, equation 4; Yamamoto, Song and Kim, "Parallel WaveGAN", 2020, arXiv:1910.11480, equations 3 to 6.
"""

import torch
from torch.nn import functional as F

STFT_SIZES = (512, 1024, 2048)
_POWER_FLOOR = 1e-7


def discriminator_loss(real: list[torch.Tensor], generated: list[torch.Tensor]) -> torch.Tensor:
    """How far scores (B, n) of real waves are from 1 and of generated ones from 0, squared, summed over the list."""
    terms = [(1 - r.float()).square().mean() + g.float().square().mean() for r, g in zip(real, generated, strict=True)]
    return torch.stack(terms).sum()


def adversarial_loss(generated: list[torch.Tensor]) -> torch.Tensor:
    """How far the scores (B, n) of generated waves are from 1, squared, summed over discriminators."""
    return torch.stack([(1 - scores.float()).square().mean() for scores in generated]).sum()


def feature_loss(real: list[list[torch.Tensor]], generated: list[list[torch.Tensor]]) -> torch.Tensor:
    """Twice the mean absolute difference of the discriminators' maps, summed over layers and discriminators.

    No gradient flows into the maps of real waves.
    """
    pairs = [pair for maps in zip(real, generated, strict=True) for pair in zip(*maps, strict=True)]
    return 2 * torch.stack([F.l1_loss(g.float(), r.detach().float()) for r, g in pairs]).sum()


def kl_loss(
    z_p: torch.Tensor, logs_q: torch.Tensor, m_p: torch.Tensor, logs_p: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Divergence of the posterior from the prior, per real frame: summed over channels, averaged over frames.

    `z_p` is the posterior's sample, mapped into the prior's space, `logs_q` its log deviation, `m_p` and `logs_p` mean
    and log deviation of the prior, (B, C, N) each; `mask` (B, 1, N) is zero (or False) at padded frames.
    """
    z_p, logs_q, m_p, logs_p, mask = (x.float() for x in (z_p, logs_q, m_p, logs_p, mask))
    divergence = logs_p - logs_q - 0.5 + 0.5 * (z_p - m_p).square() * torch.exp(-2 * logs_p)
    return (divergence * mask).sum() / mask.sum()


def stft_loss(real: torch.Tensor, generated: torch.Tensor) -> torch.Tensor:
    """How far the linear spectra of two waves (B, T) are apart, averaged over three resolutions; T is at least 2048.

    At each, the spectral convergence plus the mean difference of log magnitudes. Unlike a mel spectrum, a linear one
    tells harmonics from pulses of another rate up to the highest frequencies. No gradient flows into the real wave.
    """
    terms = []
    for n_fft in STFT_SIZES:
        window = torch.hann_window(n_fft, device=real.device)
        both = torch.cat([real.detach().float(), generated.float()])
        spectra = torch.stft(both, n_fft, n_fft // 4, window=window, center=False, return_complex=True)
        magnitude = torch.sqrt(spectra.real.square() + spectra.imag.square() + _POWER_FLOOR)
        r, g = magnitude.chunk(2)
        convergence = torch.linalg.vector_norm(r - g) / torch.linalg.vector_norm(r)
        terms.append(convergence + F.l1_loss(g.log(), r.log()))
    return torch.stack(terms).mean()
