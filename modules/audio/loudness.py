"""Level: peak normalisation, trimming of silent ends, and following the loudness of a source."""

import numpy as np

from modules.audio.rms import centered_rms

_TRIM_HOP, _TRIM_HOPS = 512, 4
_DB_FLOOR = 1e-5  # amplitude that counts as silence in decibels


def peak_normalise(wav: np.ndarray, peak: float = 1.0) -> np.ndarray:
    """(T,) scaled so that its largest magnitude is `peak`; silence stays silence."""
    found = float(np.abs(wav).max(initial=0.0))
    return wav if found == 0 else (wav * (peak / found)).astype(np.float32)


def trim_silence(wav: np.ndarray, top_db: float = 40.0) -> np.ndarray:
    """(T,) without the frames at both ends that lie more than `top_db` below the loudest one.

    Frames of 2048 samples every 512, as librosa.effects.trim. All-silent input comes back whole: nothing in it lies
    below its own maximum.
    """
    if not len(wav):
        return wav
    rms = np.maximum(centered_rms(wav, _TRIM_HOP, _TRIM_HOPS), _DB_FLOOR)
    loud = np.flatnonzero(20 * np.log10(rms / rms.max()) > -top_db)
    return wav[loud[0] * _TRIM_HOP : min(len(wav), (loud[-1] + 1) * _TRIM_HOP)]


def match_envelope(out: np.ndarray, out_rate: int, source: np.ndarray, source_rate: int, ratio: float) -> np.ndarray:
    """Gives a result the loudness curve of its source.

    Loudness is measured each half second in windows of one second and interpolated:
    out * rms(source)^(1 - ratio) * rms(out)^(ratio - 1).

    Args:
        out: (T,) result at `out_rate`.
        out_rate: Hz.
        source: (T',) the same moments at `source_rate`.
        source_rate: Hz.
        ratio: 1 keeps the result's own loudness, 0 takes the source's.

    Returns:
        (T,) float32.
    """
    wanted = _envelope(source, source_rate, len(out))
    found = np.maximum(_envelope(out, out_rate, len(out)), 1e-6)
    return (out * wanted ** (1 - ratio) * found ** (ratio - 1)).astype(np.float32)


def _envelope(wav: np.ndarray, rate: int, n_samples: int) -> np.ndarray:
    """Loudness of `wav` stretched to `n_samples` values; the ends are held."""
    rms = centered_rms(wav, rate // 2, 2)
    positions = (np.arange(n_samples) + 0.5) * (len(rms) / n_samples) - 0.5
    return np.interp(positions, np.arange(len(rms)), rms)
