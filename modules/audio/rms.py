"""Loudness in centred windows, as slicing, trimming and envelope matching need it. numpy only: workers start fast."""

import numpy as np


def hop_energies(wav: np.ndarray, hop_length: int) -> np.ndarray:
    """Sum of squares of each hop, (ceil(T / hop_length),) float64; the last hop may be a part."""
    whole = len(wav) // hop_length * hop_length
    hops = wav[:whole].reshape(-1, hop_length)
    energies = np.einsum("ij,ij->i", hops, hops, dtype=np.float64)  # squares and sums without a copy in float64
    rest = float(np.sum(wav[whole:].astype(np.float64) ** 2))
    return np.append(energies, rest) if whole < len(wav) else energies


def rms_from_energies(energies: np.ndarray, n_samples: int, hop_length: int, hops: int) -> np.ndarray:
    """Root mean square of windows of `hops` hops (an even number) centred on every hop's first sample.

    Beyond both ends the signal counts as zero. Same numbers as librosa.feature.rms with its default centring.

        hops = 4:   frame i  =  hops i-2, i-1, i, i+1

    Args:
        energies: what `hop_energies` gives.
        n_samples: T of the signal.
        hop_length: samples.
        hops: window length in hops.

    Returns:
        (T // hop_length + 1,) float64.
    """
    n_frames, half = n_samples // hop_length + 1, hops // 2
    padded = np.pad(energies, (half, half + 1))
    total = sum(padded[offset : offset + n_frames] for offset in range(hops))
    return np.sqrt(total / (hops * hop_length))


def centered_rms(wav: np.ndarray, hop_length: int, hops: int) -> np.ndarray:
    """Root mean square of (T,) in windows of `hops` hops: (T // hop_length + 1,); see `rms_from_energies`."""
    return rms_from_energies(hop_energies(wav, hop_length), len(wav), hop_length, hops)
