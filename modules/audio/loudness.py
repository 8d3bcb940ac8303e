"""Level: RMS in windows and per frame, peaks, trimming of silence, a source's envelope and its pauses."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

_TRIM_HOP, _TRIM_HOPS = 512, 4  # frames of 2048 samples
_DB_FLOOR = 1e-5  # amplitude that counts as silence in decibels

FULL_SCALE = 1 - 0.5 / 32767  # from here on a sample becomes the largest of 16 bits
_CEILING = 0.98  # where `limit_peaks` brings a peak
_LIMITER_SECONDS = 0.005  # for how long a peak's gain is held, and how long it takes to get there
_GATE_SECONDS = 0.01  # step of the loudness that tells a pause


def hop_energies(wav: np.ndarray, hop_length: int) -> np.ndarray:
    """Sum of squares of each hop, (ceil(T / hop_length),) float64; the last hop may be a part."""
    whole = len(wav) // hop_length * hop_length
    hops = wav[:whole].reshape(-1, hop_length)
    energies = np.einsum("ij,ij->i", hops, hops, dtype=np.float64)  # squares and sums without a copy in float64
    rest = float(np.sum(wav[whole:].astype(np.float64) ** 2))
    return np.append(energies, rest) if whole < len(wav) else energies


def rms_from_energies(energies: np.ndarray, n_samples: int, hop_length: int, hops: int) -> np.ndarray:
    """Root mean square of windows of `hops` hops (an even number) centred on every hop's first sample, as librosa's.

        hops = 4:   frame i  =  hops i-2, i-1, i, i+1; beyond both ends the signal counts as zero

    `energies` come from `hop_energies` of a signal of T = `n_samples`; the result is (T // hop_length + 1,) float64.
    """
    n_frames, half = n_samples // hop_length + 1, hops // 2
    padded = np.pad(energies, (half, half + 1))
    total = sum(padded[offset : offset + n_frames] for offset in range(hops))
    return np.sqrt(total / (hops * hop_length))


def centered_rms(wav: np.ndarray, hop_length: int, hops: int) -> np.ndarray:
    """`rms_from_energies` of (T,)."""
    return rms_from_energies(hop_energies(wav, hop_length), len(wav), hop_length, hops)


def frame_volume(wav: "torch.Tensor", hop_length: int) -> "torch.Tensor":
    """The volume that models with volume embedding see: (T,) in [-1, 1] to (T // hop_length,) float32, linear.

    Root mean square of the hop centred on each frame's first sample. With hop 4 and samples 1..11 the squares are
    reflected by 2 at both ends and cut in fours: (9 4 1 4)(9 16 25 36)... -> 2.1213, 4.6368.
    """
    import torch  # here: workers that need only numpy start fast

    n_frames = wav.shape[-1] // hop_length
    if n_frames == 0:
        return wav.new_zeros(0, dtype=torch.float32)
    power = wav.float().square()
    padded = torch.nn.functional.pad(power[None, None], (hop_length // 2, (hop_length + 1) // 2), mode="reflect")[0, 0]
    return padded[: n_frames * hop_length].reshape(n_frames, hop_length).mean(dim=-1).sqrt()


def peak_normalise(wav: np.ndarray) -> np.ndarray:
    """(T,) scaled so that its largest magnitude is 1; silence stays silence."""
    peak = float(np.abs(wav).max(initial=0.0))
    return wav if peak == 0 else (wav * (1 / peak)).astype(np.float32)


def trim_silence(wav: np.ndarray, top_db: float = 40.0) -> np.ndarray:
    """(T,) without the frames at both ends that lie more than `top_db` below the loudest, as librosa.effects.trim."""
    if not len(wav):
        return wav
    rms = np.maximum(centered_rms(wav, _TRIM_HOP, _TRIM_HOPS), _DB_FLOOR)
    loud = np.flatnonzero(20 * np.log10(rms / rms.max()) > -top_db)
    return wav[loud[0] * _TRIM_HOP : min(len(wav), (loud[-1] + 1) * _TRIM_HOP)]


def match_envelope(out: np.ndarray, out_rate: int, source: np.ndarray, source_rate: int, ratio: float) -> np.ndarray:
    """Gives a result (T,) the loudness curve of its source (T',), which covers the same time; returns (T,) float32.

    Loudness is measured each half second in windows of one second and interpolated:
    out * rms(source)^(1 - ratio) * rms(out)^(ratio - 1). Ratio 1 keeps the result's own loudness, 0 takes the source's.
    """
    wanted = _envelope(source, source_rate, len(out))
    found = np.maximum(_envelope(out, out_rate, len(out)), 1e-6)
    return (out * wanted ** (1 - ratio) * found ** (ratio - 1)).astype(np.float32)


def _envelope(wav: np.ndarray, rate: int, n_samples: int) -> np.ndarray:
    """Loudness of `wav` interpolated to `n_samples` values; the ends are held."""
    rms = centered_rms(wav, rate // 2, 2)
    positions = (np.arange(n_samples) + 0.5) * (len(rms) / n_samples) - 0.5
    return np.interp(positions, np.arange(len(rms)), rms)


def keep_pauses(out: np.ndarray, rate: int, source: np.ndarray, ratio: float, threshold: float) -> np.ndarray:
    """A result (T,) no louder than its source (T',), of the same rate and time, where that is below `threshold`.

    `threshold` is linear. For `match_envelope`, whose windows are longer than most pauses. With ratio 0 pauses become
    as quiet as they were, digital silence is silent; ratio 1 leaves all as it is. Returns (T,) float32.
    """
    hop = max(1, round(rate * _GATE_SECONDS))
    found = centered_rms(out, hop, 2)
    given = centered_rms(source, hop, 2)[: len(found)]
    wanted = np.pad(given, (0, len(found) - len(given)), "edge")
    # One step earlier and later counts too: the two may lie a frame apart, and a note must not lose its start.
    wanted = np.max([wanted, np.append(wanted[1:], 0), np.append(0, wanted[:-1])], axis=0)
    is_louder = (wanted < threshold) & (wanted < found)
    if not is_louder.any():
        return out
    gains = np.where(is_louder, wanted / np.maximum(found, 1e-9), 1.0) ** (1 - ratio)
    return (out * np.interp(np.arange(len(out)), np.arange(len(gains)) * hop, gains)).astype(np.float32)


def limit_peaks(wav: np.ndarray, rate: int, above: float = 1.0) -> np.ndarray:
    """(T,) as it is, unless something in it is above full scale: then with its peaks turned down, each for itself.

    A gain that goes down and up in straight lines of a few ms, lowest where the peak is:  ----\\__/----
    """
    magnitudes = np.abs(wav)
    if not len(wav) or magnitudes.max() <= above:
        return wav
    hop = max(1, round(rate * _LIMITER_SECONDS))
    starts = np.arange(0, len(wav), hop)
    needed = np.minimum(1.0, _CEILING / np.maximum(np.maximum.reduceat(magnitudes, starts), 1e-9))
    # Each hop takes the lowest gain of its neighbours: then also the line between two centres is nowhere too high.
    held = np.min([needed, np.append(needed[1:], 1), np.append(1, needed[:-1])], axis=0)
    return (wav * np.interp(np.arange(len(wav)), starts + (hop - 1) / 2, held)).astype(np.float32)
