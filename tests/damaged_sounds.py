"""What can be wrong with a recording, made on purpose: every function takes and gives (T,) float32 in [-1, 1]."""

import io

import numpy as np
from scipy.signal import butter, sosfiltfilt

from modules.audio.io import resample, to_int16
from modules.audio.loudness import hop_energies

_CODECS = {"mp3": ("mp3", "libmp3lame"), "aac": ("adts", "aac")}
_ACTIVE_DB = -30  # frames of 20 ms from here on, against the loudest one, are voice


def at_full_scale(wav: np.ndarray) -> np.ndarray:
    """With its largest sample at 1."""
    return wav / np.abs(wav).max()


def clipped(wav: np.ndarray, factor: float) -> np.ndarray:
    """At full scale, then `factor` times as loud, cut off there; of 16 bits."""
    return _of_16_bits(at_full_scale(wav) * factor)


def noisy(wav: np.ndarray, rate: int, snr_db: float, kind: str, seed: int = 0) -> np.ndarray:
    """With noise so many dB below the mean power of the active voice, at the peak level it had; of 16 bits.

    Args:
        kind: `white`, `pink`, `hum50` or `hum60` (mains: harmonics that fall with their number).
    """
    noise = _noise(len(wav), rate, kind, np.random.default_rng(seed))
    scale = np.sqrt(active_power(wav, rate) / np.mean(noise**2)) * 10 ** (-snr_db / 20)
    mixed = wav + scale * noise
    return _of_16_bits(mixed * np.abs(wav).max() / np.abs(mixed).max())


def active_power(wav: np.ndarray, rate: int) -> float:
    """Mean power of the frames in which somebody speaks or sings."""
    energies = hop_energies(wav, rate // 50)
    return float(np.mean(energies[energies > energies.max() * 10 ** (_ACTIVE_DB / 10)])) / (rate // 50)


def _noise(n_samples: int, rate: int, kind: str, generator: np.random.Generator) -> np.ndarray:
    if kind.startswith("hum"):
        harmonics = np.arange(1, 21)[:, None]
        phases = generator.uniform(0, 2 * np.pi, (20, 1))
        angles = 2 * np.pi * int(kind[3:]) * harmonics * np.arange(n_samples) / rate
        return (np.sin(angles + phases) / harmonics).sum(0)
    white = generator.standard_normal(n_samples)
    if kind == "white":
        return white
    frequencies = np.maximum(np.fft.rfftfreq(n_samples, 1 / rate), 20)
    return np.fft.irfft(np.fft.rfft(white) / np.sqrt(frequencies), n_samples)


def through_codec(wav: np.ndarray, rate: int, codec: str, kbit: int) -> np.ndarray:
    """Encoded as `mp3` or `aac` of so many kbit/s and decoded, at its rate; about as long, starting about as late."""
    import av

    container, encoder = _CODECS[codec]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream(encoder, rate=rate, layout="mono")
        stream.bit_rate = kbit * 1000
        for start in range(0, len(wav), 1152):
            samples = wav[None, start : start + 1152].astype(np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, start
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer) as file:
        return np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)]).astype(np.float32)


def through_rate(wav: np.ndarray, rate: int, lowest: int) -> np.ndarray:
    """Resampled to `lowest` Hz and back: nothing is left above half of that."""
    return _of_16_bits(resample(resample(wav, rate, lowest), lowest, rate))


def telephone(wav: np.ndarray, rate: int) -> np.ndarray:
    """300 to 3400 Hz, by way of 8 kHz."""
    band = butter(6, (300, 3400), "bandpass", fs=rate, output="sos")
    return through_rate(sosfiltfilt(band, wav).astype(np.float32), rate, 8000)


def _of_16_bits(wav: np.ndarray) -> np.ndarray:
    return to_int16(wav).astype(np.float32) / 32768
