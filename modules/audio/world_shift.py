"""Another pitch with the same formants, for a voice whose F0 is known exactly, by the vocoder WORLD."""

import numpy as np

_FADE_FRAMES = 3  # from voiced to unvoiced sound, of about 10 ms each
_LOWEST_HZ = 71.0  # WORLD's smallest F0 for its envelope; lower notes are analysed as this one


def shift_pitch(wav: np.ndarray, rate: int, f0: np.ndarray, hop_length: int, semitones: np.ndarray) -> np.ndarray:
    """A voice (T,) in [-1, 1] `semitones` (N,) higher with the same formants, length and timing, (T,) float32.

    `f0` (N,) is its pitch in Hz on frames of `hop_length` samples, 0 where unvoiced. What is voiced and to be moved is
    taken apart into F0, spectral envelope and aperiodicity and put together with the other F0; the rest, consonants and
    breath, stays as it is, sample by sample, with a short cross-fade between both.

    Source: Morise, Yokomori and Ozawa, "WORLD: A Vocoder-Based High-Quality Speech Synthesis System for Real-Time
    Applications", 2016; Morise, "CheapTrick", 2015, and "D4C", 2016.
    """
    import pyworld

    wav, f0 = np.asarray(wav, np.float32), np.asarray(f0, np.float64)
    moved = (f0 > 0) & (semitones != 0)
    if not moved.any():
        return wav
    period, sound = hop_length / rate, wav.astype(np.float64)
    n_frames = len(wav) // hop_length + 1
    f0, ratio, moved = (_fitted(curve, n_frames) for curve in (f0, 2.0 ** (np.asarray(semitones) / 12), moved))
    times = np.arange(n_frames) * period
    envelope = pyworld.cheaptrick(sound, f0, times, rate, f0_floor=_LOWEST_HZ)
    aperiodicity = pyworld.d4c(sound, f0, times, rate, fft_size=2 * (envelope.shape[1] - 1))
    made = pyworld.synthesize(f0 * ratio, envelope, aperiodicity, rate, 1000 * period)
    made = np.pad(made, (0, max(0, len(wav) - len(made))))[: len(wav)].astype(np.float32)
    share = voiced_share(moved, hop_length, len(wav))
    return share * made + (1 - share) * wav


def _fitted(curve: np.ndarray, n_frames: int) -> np.ndarray:
    return np.pad(curve, (0, max(0, n_frames - len(curve))), mode="edge")[:n_frames]


def voiced_share(voiced: np.ndarray, hop_length: int, n_samples: int) -> np.ndarray:
    """How much of the voiced sound each of `n_samples` takes, (T,) float32 from 0 to 1: 1 in voiced frames, falling to
    0 over a few unvoiced ones."""
    kernel = np.ones(2 * _FADE_FRAMES + 1) / (_FADE_FRAMES + 1)
    near = np.minimum(np.convolve(np.pad(voiced.astype(np.float64), _FADE_FRAMES), kernel, "valid"), 1.0)
    near = np.where(voiced, 1.0, near)
    return np.interp(np.arange(n_samples) / hop_length, np.arange(len(near)), near).astype(np.float32)
