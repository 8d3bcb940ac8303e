"""Real bandwidth of one sound: where it ends, and whether it was cut there; what that means for a speaker's sounds."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from modules.doctor.findings import Finding
from modules.doctor.framing import Framer
from modules.doctor.verdicts import verdict

_FRAME_SECONDS = 0.04
_CLASS_DB = 3  # frames are summed by level, as the loudest one is known only at the end
_N_CLASSES = 50  # to -150 dB
_LOUD_CLASSES = 10  # 30 dB
_FEWEST_FRAMES = 10
_BAND_HZ = 100
_INSIDE, _STEP = 8, 6  # bands before an edge, whose median is taken; bands within which it falls
_LOWEST_EDGE = 25  # bands; a telephone ends at 3.4 kHz, a sung tone may have no more than this
# By how much an edge falls, all above it included. Six clean voices: 17 dB at most below 18 kHz; what went through 8,
# 11, 16 or 22 kHz or mp3 of 32 and 48 kbit/s: 36 dB at least.
_STEEP_DB = 25.0
_FALL_DB = 15.0  # the end is where the edge has fallen this far
_END_DB = -85.0  # of a band's bins against the whole: where a sound without an edge ends

_TELEPHONE_HZ = 6000  # 8 kHz: ends at 3.9, telephone 3.8, 11 kHz: 5.4
_NARROW_HZ = 11600  # 16 kHz: ends at 7.7, mp3 of 32 kbit/s 8.4, 22 kHz 10.6, mp3 of 48 kbit/s 11.2; aac of 32: 12.5
_CODEC_HZ = (8050, 9500)  # no honest rate ends there
_WIDE_RATE = 32000
_MIXED = 0.7  # of the speaker's usual end


@dataclass(frozen=True)
class Bandwidth:
    """How high one sound goes."""

    seconds: float
    rate: int  # Hz, of the file
    end_hz: float | None  # None where it is too short or silent
    is_cut: bool  # by a steep edge, or by the rate itself


class BandwidthMeter:
    """Measures one sound as it streams by."""

    def __init__(self, rate: int) -> None:
        self._rate, length = rate, 2 * round(rate * _FRAME_SECONDS / 2)
        self._framer = Framer(length, length)
        self._window = np.hanning(length).astype(np.float32)
        self._n_samples = 0
        self._counts = np.zeros(_N_CLASSES, np.int64)
        self._spectra = np.zeros((_N_CLASSES, length // 2 + 1))

    def push(self, block: np.ndarray) -> None:
        """Takes the next (T,) float32 mono samples."""
        self._n_samples += len(block)
        spectrum = np.fft.rfft(self._framer.push(block) * self._window)
        power = spectrum.real**2 + spectrum.imag**2
        level = 10 * np.log10(np.maximum(power.sum(1), 1e-30) / self._framer.length**2)
        classes = np.clip((-level / _CLASS_DB).astype(int), 0, _N_CLASSES - 1)
        for number in np.unique(classes):
            self._spectra[number] += power[classes == number].sum(0, dtype=np.float64)
            self._counts[number] += np.count_nonzero(classes == number)

    def finish(self) -> Bandwidth:
        """What was measured in all that was pushed."""
        seconds, audible = self._n_samples / self._rate, np.flatnonzero(self._counts[:-1])
        loud = slice(audible[0], audible[0] + _LOUD_CLASSES) if len(audible) else slice(0)
        if self._counts[loud].sum() < _FEWEST_FRAMES:
            return Bandwidth(seconds, self._rate, None, False)
        power = self._spectra[loud].sum(0)
        wide = round(_BAND_HZ * self._framer.length / self._rate)
        n_bands = len(power) // wide
        bands = 10 * np.log10(power[: n_bands * wide].reshape(n_bands, wide).mean(1) / power.sum() + 1e-15)
        padded = np.pad(bands, 2, "edge")
        smooth = np.median(
            np.lib.stride_tricks.sliding_window_view(padded, 5), 1
        )  # a whistle is no sound above an edge
        hz = wide * self._rate / self._framer.length
        edge = _steepest(smooth)
        if edge is not None:
            return Bandwidth(seconds, self._rate, float(edge * hz), True)
        end = float((np.flatnonzero(smooth > _END_DB)[-1] + 1) * hz)
        return Bandwidth(seconds, self._rate, end, end > 0.9 * self._rate / 2)


def _steepest(bands: np.ndarray) -> int | None:
    """The band where the steepest edge has fallen by `_FALL_DB`, if there is a steep one; `bands` (n,) in dB."""
    best, found = _STEEP_DB, None
    for at in range(_LOWEST_EDGE, len(bands) - _STEP - 2):
        inside = np.median(bands[at - _INSIDE : at])
        if (drop := inside - bands[at + _STEP :].max()) > best:
            best, found = drop, at
    if found is None:
        return None
    inside = np.median(bands[found - _INSIDE : found])
    return found + int(np.argmax(bands[found:] < inside - _FALL_DB))


def judge(section: str, speaker: str, sounds: dict[Path, Bandwidth]) -> list[Finding]:
    """What the bandwidth of one speaker's recordings or clips means."""
    known = {path: sound for path, sound in sounds.items() if sound.end_hz is not None}
    cut = {path: sound for path, sound in known.items() if sound.is_cut and sound.end_hz < _NARROW_HZ}
    if not cut:
        return []
    usual = median(sound.end_hz for sound in known.values())
    telephone = [path for path in cut if cut[path].end_hz < _TELEPHONE_HZ]
    worse = [path for path in cut if path not in telephone and _is_fake(section, cut[path], usual)]
    facts = [path for path in cut if path not in telephone and path not in worse]
    most = sum(sound.seconds for sound in known.values()) / 2
    is_most = sum(cut[path].seconds for path in telephone) > most
    by_level = {
        "error": telephone if is_most else [],
        "warning": worse if is_most else telephone + worse,
        "info": facts,
    }
    findings = []
    for level, paths in by_level.items():
        if paths:
            paths = sorted(paths, key=lambda path: cut[path].end_hz)
            found = [(path, f"no sound above {cut[path].end_hz / 1000:.1f} kHz") for path in paths]
            remedy = "" if level == "info" else _REMEDY
            state = "without treble, and the voice will have none" if level == "info" else "narrow in band"
            findings.append(verdict((section, "bandwidth", speaker), level, found, len(sounds), state, remedy))
    return findings


_REMEDY = (
    "Look for the original, or record again at 44.1 kHz (no telephone, no headset in a call, no mp3 below 64 kbit/s); "
    "or leave them out"
)


def _is_fake(section: str, sound: Bandwidth, usual: float) -> bool:
    """Whether more than an honest low rate is behind the edge: resampled up, a codec's, or narrower than the rest."""
    is_resampled_up = section == "recordings" and sound.rate >= _WIDE_RATE
    is_codec = sound.rate >= _WIDE_RATE and _CODEC_HZ[0] < sound.end_hz < _CODEC_HZ[1]
    return is_resampled_up or is_codec or sound.end_hz < _MIXED * usual
