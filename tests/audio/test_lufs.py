"""Loudness after ITU-R BS.1770-4, against the values that the standard and EBU Tech 3341 give."""

import numpy as np
import pytest

from modules.audio.lufs import SILENT, integrated_loudness


def sine(hz: float, seconds: float, rate: int, db: float = 0.0) -> np.ndarray:
    return (10 ** (db / 20) * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_a_full_sine_of_997_hz_in_one_channel_has_minus_3_01(rate):
    assert integrated_loudness(sine(997, 3, rate), rate) == pytest.approx(-3.01, abs=0.02)


def test_loudness_falls_with_the_level_and_bass_counts_less():
    assert integrated_loudness(sine(997, 2, 48000, -23), 48000) == pytest.approx(-26.01, abs=0.02)
    assert integrated_loudness(sine(40, 2, 48000), 48000) < -7


def test_what_is_far_below_the_rest_does_not_count():
    # EBU Tech 3341, case 3, in one channel and shorter, so that blocks at the joins count for 0.1 LU.
    parts = [sine(1000, seconds, 48000, level) for seconds, level in ((2, -36), (12, -23), (2, -36))]
    alone = integrated_loudness(parts[1], 48000)
    assert integrated_loudness(np.concatenate(parts), 48000) == pytest.approx(alone, abs=0.15)


def test_silence_and_nothing_have_no_loudness_and_a_short_sound_has_one():
    assert integrated_loudness(np.zeros(48000, np.float32), 48000) == SILENT
    assert integrated_loudness(np.zeros(0, np.float32), 48000) == SILENT
    assert integrated_loudness(sine(997, 1, 48000, -75), 48000) == SILENT
    assert integrated_loudness(sine(997, 0.2, 48000), 48000) == pytest.approx(-3.01, abs=0.2)
