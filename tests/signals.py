"""Signals that tests are run on: synthesised and seeded."""

import numpy as np


def sung(f0: np.ndarray, rate: int) -> np.ndarray:
    """Eleven harmonics that fall off as a voice's do, float32; `f0` is one value for each sample, in Hz."""
    phase = 2 * np.pi * np.cumsum(f0) / rate
    return (0.2 * sum(np.sin(k * phase) / k for k in range(1, 12))).astype(np.float32)


def babble(n_samples: int, seed: int = 5) -> np.ndarray:
    """Noise with a moving level, float32: not speech, but unlike from moment to moment."""
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal(n_samples + 1600)
    points = np.arange(0, n_samples + 1600, 1600)
    level = np.interp(np.arange(n_samples), points, generator.random(len(points)))
    smooth = np.convolve(noise, np.ones(8) / 8, "same")[:n_samples]
    return (0.1 * level * (smooth + 0.3 * noise[:n_samples])).astype(np.float32)


def formant_voice(f0: np.ndarray, rate: int, tilt: float = 12.0) -> np.ndarray:
    """A vowel, float32: harmonics that fall by `tilt` dB an octave, shaped by four formants, phases scattered; `f0` is
    one value for each sample, in Hz."""
    phase, wav = 2 * np.pi * np.cumsum(f0) / rate, np.zeros(len(f0))
    for k in range(1, int(5000 / f0.min()) + 1):
        at = k * f0
        formants = sum(g / (1 + ((at - f) / b) ** 2) for f, b, g in ((650, 120, 1), (1100, 150, 0.7), (2600, 250, 0.4)))
        wav += (at < 5000) * k ** (-tilt / 6.02) * (formants + 0.03) * np.sin(k * phase + 0.3 * k * k)
    return (0.5 * wav / np.abs(wav).max()).astype(np.float32)
