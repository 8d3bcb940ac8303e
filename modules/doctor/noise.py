"""Noise under a voice: hiss in its quietest moments (2.5 to 5 and 5 to 8 kHz), hum in lines at multiples of the mains.

The lowest values over time of each band are the noise's (Martin, "Noise Power Spectral Density Estimation Based on
Optimal Smoothing and Minimum Statistics", IEEE Trans. Speech and Audio Processing 9(5), 2001). Below 2.5 kHz the rests
of a voice and its room hide a noise of 30 dB: the clean voices have 17 to 60 dB there.
"""

import numpy as np

from modules.doctor.framing import Framer

_FRAME_SECONDS = 0.04
_EDGES_HZ = (2500, 5000, 8000)
_FLAT_UNTIL_HZ = 7300  # where mp3 cuts 16 kHz
_SILENT_POWER = 2e-9  # -87 dB, two steps of 16 bits: a gate or digital silence, no noise
_GATED_SHARE = 0.1  # of samples that are exactly zero: a gate closes or opens within the frame
_BINS_PER_DB = 4
_FLOOR_DB = -140
_FEWEST_FRAMES = 75  # three seconds
# Share of the frames that counts as the floor, and by how many dB the lowest 1 % and 10 % may differ: a take without
# pauses has no floor. White and pink noise at 30 dB: 2.2 dB at most; voices without their pauses: 3.6 dB at least.
_FLOOR_SHARE = 0.05
_STEADY_DB = 2.75
# A held note is steady too, but not flat: harmonics -10 dB and less; noise -2.4 to -3.9 dB, also through AAC or mp3 of
# 64 kbit/s, -6.0 through mp3 of 32.
_FLATNESS_DB = -6.3

_HUM_SECONDS = 0.2  # 5 Hz between two bins
_HUM_BINS = 140  # to 700 Hz
_HUM_SHARE = 0.1
_FEWEST_HUM_FRAMES = 18  # two seconds
_MAINS_HZ = (50, 60)
_HARMONICS = np.arange(2, 11)  # of the mains; the first drowns in rumble
# By how many dB seven of the nine lines stand out of their surroundings. Six clean voices: 1.6 dB at most; hum at
# 15 dB: 8.0 at least, at 30 dB -0.1 to 10.
_HUM_PROMINENCE_DB = 4.0


class _Histogram:
    """Levels in dB of some bands over time."""

    def __init__(self, n_bands: int) -> None:
        self.n_frames = 0
        self._n_bins = -_FLOOR_DB * _BINS_PER_DB + 80
        self._counts = np.zeros((n_bands, self._n_bins), np.int64)
        self._flatness = np.zeros((n_bands, self._n_bins))

    def push(self, power: np.ndarray, flatness: np.ndarray | None = None) -> None:
        """Takes (n, bands), and how flat each spectrum is in dB, (n, bands)."""
        level = 10 * np.log10(np.maximum(power, 1e-14)) - _FLOOR_DB
        bins = np.clip((level * _BINS_PER_DB).astype(int), 0, self._n_bins - 1)
        flat = bins + np.arange(len(self._counts)) * self._n_bins
        self._counts += np.bincount(flat.ravel(), minlength=self._counts.size).reshape(self._counts.shape)
        if flatness is not None:
            sums = np.bincount(flat.ravel(), flatness.ravel(), minlength=self._counts.size)
            self._flatness += sums.reshape(self._counts.shape)
        self.n_frames += len(power)

    def lowest(self, share: float) -> np.ndarray:
        """The level that this share of the frames stays below, (bands,) in dB."""
        bins = np.argmax(np.cumsum(self._counts, 1) > share * self.n_frames, 1)
        return (bins + 0.5) / _BINS_PER_DB + _FLOOR_DB

    def flatness(self, share: float) -> np.ndarray:
        """Mean flatness of the lowest frames, (bands,) in dB."""
        is_low = np.cumsum(self._counts, 1) - self._counts <= share * self.n_frames
        return (self._flatness * is_low).sum(1) / np.maximum((self._counts * is_low).sum(1), 1)


class NoiseMeter:
    """Measures the noise of one sound as it streams by."""

    def __init__(self, rate: int, slow_rate: float) -> None:
        """`slow_rate`: Hz, of the means of blocks that tell hum."""
        self._framer = Framer(round(rate * _FRAME_SECONDS), round(rate * _FRAME_SECONDS))
        self._window = np.hanning(self._framer.length).astype(np.float32)
        frequencies = np.fft.rfftfreq(self._framer.length, 1 / rate)
        low, high, end, cut = (int(np.searchsorted(frequencies, hz)) for hz in (*_EDGES_HZ, _FLAT_UNTIL_HZ))
        self._slices = [slice(high, end), slice(low, high)]
        self._inner = [slice(high, cut), slice(low, high)]
        # A band that is cut off by the rate is none: of 8 kHz only the lower one is there, and of that 1.5 kHz.
        self._is_there = [rate / 2 >= 1.5 * hz for hz in (_EDGES_HZ[1], _EDGES_HZ[0])]
        self._bands = _Histogram(2)
        length = round(slow_rate * _HUM_SECONDS)
        self._slow_framer = Framer(length, length // 2)
        self._slow_window = np.hanning(length).astype(np.float32)
        self._slow_hz = slow_rate / length
        self._n_lines = min(_HUM_BINS, length // 2 + 1)
        self._lines = _Histogram(self._n_lines)

    def push(self, block: np.ndarray, slow: np.ndarray) -> None:
        """Takes the next (T,) samples and the means of the next blocks."""
        frames = self._framer.push(block)
        frames = frames[(frames == 0).mean(1) < _GATED_SHARE]
        power = _powers(frames, self._window)
        power = power[power.sum(1) > _SILENT_POWER]
        flatness = np.stack([_flatness(power[:, part]) for part in self._inner], 1)
        self._bands.push(np.stack([power[:, part].sum(1) for part in self._slices], 1), flatness)
        power = _powers(self._slow_framer.push(slow), self._slow_window)
        self._lines.push(power[power.sum(1) > _SILENT_POWER, : self._n_lines])

    def hiss(self) -> list[tuple[float, bool] | None]:
        """The floor from 5 to 8 kHz and from 2.5 to 5 kHz: its level in dB, and whether it is as steady as noise is.

        What is not steady may be a take without pauses: then the noise is below it. None: no such band, or too short.
        """
        floor = self._bands.lowest(_FLOOR_SHARE)
        is_steady = self._bands.lowest(0.1) - self._bands.lowest(0.01) < _STEADY_DB
        is_known = np.array(self._is_there) & (self._bands.n_frames >= _FEWEST_FRAMES)
        is_noise = is_steady & (self._bands.flatness(0.1) > _FLATNESS_DB)
        found = zip(floor, is_noise, is_known, strict=True)
        return [(float(level), bool(noise)) if known else None for level, noise, known in found]

    def hum(self) -> float | None:
        """Level in dB of the lines at multiples of 50 or 60 Hz; None without any, or where it is too short."""
        if self._lines.n_frames < _FEWEST_HUM_FRAMES or self._n_lines < _HUM_BINS:
            return None
        levels, found = self._lines.lowest(_HUM_SHARE), []
        for mains in _MAINS_HZ:
            at = np.rint(mains * _HARMONICS / self._slow_hz).astype(int)
            around = np.median([levels[at + shift] for shift in (-4, -3, -2, 2, 3, 4)], 0)
            if np.sort(levels[at] - around)[2] >= _HUM_PROMINENCE_DB:
                lines = np.append(levels[round(mains / self._slow_hz)], levels[at])
                found.append(float(10 * np.log10(1.5 * np.sum(10 ** (lines / 10)))))  # 1.5: its bin has 2/3 of a line
        return max(found, default=None)


def _powers(frames: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Spectrum (n, bins) of frames (n, length): the sum over bins is the mean square."""
    spectrum = np.fft.rfft(frames * window)
    return (spectrum.real**2 + spectrum.imag**2) * (2 / (len(window) * float(np.sum(window**2))))


def _flatness(power: np.ndarray) -> np.ndarray:
    """Geometric by arithmetic mean over the bins (n, bins), (n,) in dB: -2.5 for noise, far less for harmonics."""
    if not power.shape[1]:
        return np.zeros(len(power), np.float32)
    logs = 10 * np.log10(power + np.float32(1e-18))
    return logs.mean(1) - 10 * np.log10(power.mean(1) + np.float32(1e-18))
