"""Spectra: the linear spectrogram of training, its mel, the vocoder's mel with key shift, and the centred log mel.

All run in fp32 whatever the input, on the input's device, and can be differentiated.
"""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from modules.config.audio import AudioSpec
from modules.errors import AudioError

LOG_FLOOR = 1e-5


def spectrogram(wav: torch.Tensor, audio: AudioSpec) -> torch.Tensor:
    """Linear magnitude spectrum with exactly T // hop_length frames (for T above the padding).

    (..., T) in [-1, 1] at audio.sampling_rate to (..., F, N) float32, sqrt(re^2 + im^2 + 1e-6). The wave is reflected
    by (n_fft - hop_length) / 2 at both ends and not centred: frame i looks at the samples around the middle of hop i.
    """
    pad = (audio.n_fft - audio.hop_length) // 2
    flat = wav.reshape(-1, wav.shape[-1]).float()
    if flat.shape[-1] <= pad:
        raise AudioError(f"{flat.shape[-1]} samples are too short for a spectrum; at least {pad + 1} are needed")
    padded = F.pad(flat[:, None], (pad, pad), mode="reflect")[:, 0]
    magnitude = _stft_magnitude(padded, audio.n_fft, audio.hop_length, audio.win_length, 1e-6)
    return magnitude.reshape(*wav.shape[:-1], *magnitude.shape[-2:])


def mel_from_spectrogram(spec: torch.Tensor, audio: AudioSpec) -> torch.Tensor:
    """Natural-log mel of a linear magnitude spectrum: (..., F, N) to (..., M, N), Slaney scale and norm."""
    return torch.log(torch.clamp(mel_filters(audio, spec.device) @ spec.float(), min=LOG_FLOOR))


def mel_spectrogram(wav: torch.Tensor, audio: AudioSpec) -> torch.Tensor:
    """Natural-log mel of a wave: (..., T) to (..., M, N)."""
    return mel_from_spectrogram(spectrogram(wav, audio), audio)


def vocoder_mel(wav: torch.Tensor, audio: AudioSpec, key_shift: float = 0.0) -> torch.Tensor:
    """Natural-log mel of the pretrained NSF-HiFiGAN: (..., T) at audio.sampling_rate to (..., M, N) float32.

    A key shift of k semitones, as if the voice were that much higher, stretches FFT and window by 2^(k/12) and reads
    the bins as if they were not stretched.
    """
    factor = 2 ** (key_shift / 12)
    n_fft, win_length = round(audio.n_fft * factor), round(audio.win_length * factor)
    flat = wav.reshape(-1, wav.shape[-1]).float()
    n_samples, hop = flat.shape[-1], audio.hop_length
    left = (win_length - hop) // 2
    right = max((win_length - hop + 1) // 2, win_length - n_samples - left)
    padded = F.pad(flat[:, None], (left, right), mode="reflect" if right < n_samples else "constant")[:, 0]
    magnitude = _stft_magnitude(padded, n_fft, hop, win_length, 1e-9)
    if key_shift:
        missing = audio.n_freqs - magnitude.shape[-2]
        magnitude = F.pad(magnitude, (0, 0, 0, max(0, missing)))[:, : audio.n_freqs] * audio.win_length / win_length
    mel = mel_from_spectrogram(magnitude, audio)
    return mel.reshape(*wav.shape[:-1], *mel.shape[-2:])


def centered_log_mel(wav: torch.Tensor, audio: AudioSpec) -> torch.Tensor:
    """Natural-log mel with centred frames and the HTK scale, for RMVPE: (T,) to (M, T // hop_length + 1) float32."""
    sizes, window = (audio.n_fft, audio.hop_length, audio.win_length), _hann(audio.win_length, wav.device)
    spec = torch.stft(wav.float(), *sizes, window, center=True, return_complex=True)
    return torch.log(torch.clamp(mel_filters(audio, wav.device, htk=True) @ spec.abs(), min=LOG_FLOOR))


@lru_cache(maxsize=64)
def mel_filters(audio: AudioSpec, device: torch.device, htk: bool = False) -> torch.Tensor:
    """Mel filter bank (M, F) float32 with Slaney norm; the scale is Slaney's, or HTK's where asked.

    The numbers are those of librosa.filters.mel, whose import takes most of a second.
    """
    bins_hz = np.fft.rfftfreq(audio.n_fft, 1 / audio.sampling_rate)
    low, high = (float(_hz_to_mel(np.array([hz]), htk)[0]) for hz in (audio.fmin, audio.fmax))
    edges_hz = _mel_to_hz(
        np.linspace(low, high, audio.n_mels + 2), htk
    )  # filter i rises from edge i and falls to i + 2
    ramps, widths = np.subtract.outer(edges_hz, bins_hz), np.diff(edges_hz)[:, None]
    triangles = np.maximum(0, np.minimum(-ramps[:-2] / widths[:-1], ramps[2:] / widths[1:])).astype(np.float32)
    filters = (triangles * (2 / (edges_hz[2:] - edges_hz[:-2]))[:, None]).astype(np.float32)
    with torch.inference_mode(False):  # kept: a conversion may be the first to ask, a training in this process the next
        return torch.from_numpy(filters).to(device)


# Slaney's scale: linear up to 1000 Hz, which is 15 mel, and 27 mel for each factor of 6.4 above.
_HZ_PER_MEL, _LOG_FROM_HZ, _LOG_STEP = 200 / 3, 1000.0, np.log(6.4) / 27
_LOG_FROM_MEL = _LOG_FROM_HZ / _HZ_PER_MEL


def _hz_to_mel(hz: np.ndarray, htk: bool) -> np.ndarray:
    if htk:
        return 2595 * np.log10(1 + hz / 700)
    above = _LOG_FROM_MEL + np.log(np.maximum(hz, _LOG_FROM_HZ) / _LOG_FROM_HZ) / _LOG_STEP
    return np.where(hz >= _LOG_FROM_HZ, above, hz / _HZ_PER_MEL)


def _mel_to_hz(mel: np.ndarray, htk: bool) -> np.ndarray:
    if htk:
        return 700 * (10 ** (mel / 2595) - 1)
    above = _LOG_FROM_HZ * np.exp(_LOG_STEP * (mel - _LOG_FROM_MEL))
    return np.where(mel >= _LOG_FROM_MEL, above, _HZ_PER_MEL * mel)


@lru_cache(maxsize=64)
def _hann(length: int, device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):  # as above
        return torch.hann_window(length, device=device)


def _stft_magnitude(wav: torch.Tensor, n_fft: int, hop_length: int, win_length: int, epsilon: float) -> torch.Tensor:
    """(B, T) to (B, n_fft // 2 + 1, N), not centred; epsilon keeps the gradient finite at silence."""
    window = _hann(win_length, wav.device)
    spec = torch.stft(wav, n_fft, hop_length, win_length, window, center=False, return_complex=True)
    return torch.sqrt(spec.real.square() + spec.imag.square() + epsilon)
