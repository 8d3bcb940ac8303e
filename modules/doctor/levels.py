"""Levels of one sound: clipping, noise, offset, silence, loudness. What they mean is for `level_rules.py`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modules.doctor.clipping import BLOCKS, ClippingMeter, block_length
from modules.doctor.findings import Finding
from modules.doctor.framing import Framer
from modules.doctor.level_rules import RULES
from modules.doctor.noise import NoiseMeter

_BINS_PER_DB = 2
_FLOOR_DB = -120
_N_BINS = 280  # to +20 dB
_DIGITAL_SILENCE = 1e-11  # mean square of a frame; 16 bits with dither have 2e-10 and more
_ACTIVE_DB = 30  # frames that far below the loudest one and more are no voice
_SILENT_DB = 40  # below the voice
_FLAT_OFFSET = 0.3  # of the peak: from here on silence itself is flat where clipping is looked for


@dataclass(frozen=True)
class Floor:
    """The quietest moments of a band."""

    below_db: float  # the voice
    is_steady: bool  # as noise is; else the noise is still lower, which a take without pauses does not show


@dataclass(frozen=True)
class Levels:
    """Levels of one sound; None where the sound does not allow to measure it."""

    seconds: float
    peak: float  # linear, full scale is 1
    offset: float  # of the mean from zero, as a share of the peak
    loudness_db: float | None  # mean power of the voice, against full scale; None in digital silence
    silent_share: float  # of the time, 40 dB below the voice and more
    gap_seconds: float  # longest digital silence between sounds
    clipped: float  # share of the loud peaks that is cut off
    flattened: float  # share of the loud time at a level where the wave is flat: clipped, then resampled or encoded
    hiss: Floor | None  # from 5 to 8 kHz; None in under three seconds, or below such a rate
    mid_hiss: Floor | None  # from 2.5 to 5 kHz
    hum_db: float | None  # mains hum in dB below the voice; None where there is none, or under two seconds


class LevelMeter:
    """Measures one sound as it streams by."""

    def __init__(self, rate: int) -> None:
        self._rate, self._block = rate, block_length(rate)
        self._framer = Framer(BLOCKS * self._block, BLOCKS * self._block)
        self._clipping, self._noise = ClippingMeter(), NoiseMeter(rate, rate / self._block)
        self._n_samples, self._sum, self._peak = 0, 0.0, 0.0
        self._counts, self._power = np.zeros(_N_BINS, np.int64), np.zeros(_N_BINS)
        self._n_frames, self._last_heard, self._gap = 0, None, 0

    def push(self, block: np.ndarray) -> None:
        """Takes the next (T,) float32 mono samples."""
        self._n_samples += len(block)
        self._sum += float(block.sum(dtype=np.float64))
        self._peak = max(self._peak, float(block.max(initial=0.0)), -float(block.min(initial=0.0)))
        frames = self._framer.push(block)
        means = frames.reshape(-1, self._block) @ np.full(self._block, 1 / self._block, np.float32)
        square = np.einsum("ij,ij->i", frames, frames) / frames.shape[1]
        power = np.maximum(square - means.reshape(len(frames), BLOCKS).mean(1) ** 2, 0).astype(np.float64)
        self._clipping.push(frames, np.sqrt(power))
        self._noise.push(block, means)
        level = 10 * np.log10(np.maximum(power, 1e-13)) - _FLOOR_DB
        bins = np.clip((level * _BINS_PER_DB).astype(int), 0, _N_BINS - 1)
        self._counts += np.bincount(bins, minlength=_N_BINS)
        self._power += np.bincount(bins, power, minlength=_N_BINS)
        self._find_gap(power > _DIGITAL_SILENCE)

    def _find_gap(self, is_heard: np.ndarray) -> None:
        heard = np.flatnonzero(is_heard) + self._n_frames
        self._n_frames += len(is_heard)
        if len(heard):
            before = heard[0] if self._last_heard is None else self._last_heard
            self._gap = max(self._gap, int(np.diff(heard, prepend=before).max()) - 1)
            self._last_heard = int(heard[-1])

    def finish(self) -> Levels:
        """What was measured in all that was pushed."""
        seconds, frame_seconds = self._n_samples / self._rate, BLOCKS * self._block / self._rate
        audible = np.flatnonzero(self._counts[1:])
        loudness, silent = None, 1.0
        if len(audible):
            active = slice(max(1, audible[-1] + 1 - _ACTIVE_DB * _BINS_PER_DB), None)
            loudness = 10 * np.log10(self._power[active].sum() / self._counts[active].sum())
            below = max(0, int((loudness - _SILENT_DB - _FLOOR_DB) * _BINS_PER_DB))
            silent = float(self._counts[:below].sum() / self._n_frames)
        hiss, mid_hiss = (
            None if floor is None or loudness is None else Floor(float(loudness - floor[0]), floor[1])
            for floor in self._noise.hiss()
        )
        hum = self._noise.hum()
        offset = self._sum / max(1, self._n_samples) / self._peak if self._peak else 0.0
        return Levels(
            seconds=seconds,
            peak=self._peak,
            offset=offset,
            loudness_db=None if loudness is None else float(loudness),
            silent_share=silent,
            gap_seconds=self._gap * frame_seconds,
            clipped=self._clipping.clipped(),
            flattened=self._clipping.flattened() if abs(offset) < _FLAT_OFFSET else 0.0,
            hiss=hiss,
            mid_hiss=mid_hiss,
            hum_db=None if hum is None or loudness is None else float(loudness - hum),
        )


def judge(section: str, speaker: str, sounds: dict[Path, Levels]) -> list[Finding]:
    """What is wrong with the levels of one speaker's recordings or clips."""
    return [finding for rule in RULES for finding in rule(section, speaker, sounds)]
