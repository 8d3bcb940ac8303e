"""What is taken of a recording: the upper part of its voiceless frames, as loud as it was beside the vowels."""

import numpy as np
import pytest

from modules.audio.consonants import keep_consonants

RATE, HOP, N = 44100, 512, 200
VOICELESS = np.zeros(N, bool)
VOICELESS[80:120] = True
INSIDE = slice(82 * HOP, 118 * HOP)
OUTSIDE = np.r_[0 : 76 * HOP, 124 * HOP : N * HOP]


def tones(low: float, high: float, level: float = 0.1) -> np.ndarray:
    """One below 2 kHz and one above."""
    time = np.arange(N * HOP) / RATE
    return (level * (np.sin(2 * np.pi * low * time) + np.sin(2 * np.pi * high * time))).astype(np.float32)


def power_at(wav: np.ndarray, hz: float) -> float:
    """The squared amplitude of a tone."""
    windowed = wav * np.hanning(len(wav)) * 4 / len(wav)
    return abs(windowed @ np.exp(-2j * np.pi * hz * np.arange(len(wav)) / RATE)) ** 2


@pytest.mark.parametrize("level", [0.1, 0.01])
@pytest.mark.parametrize("share", [1.0, 0.25])
def test_the_upper_part_of_voiceless_frames_is_the_sources_at_the_results_level(level, share):
    made, source = tones(500, 5000), tones(700, 7000, level)
    kept = keep_consonants(made, source, RATE, VOICELESS, HOP, share)
    assert kept.dtype == np.float32 and len(kept) == len(made)
    found = [power_at(kept[INSIDE], hz) / 0.01 for hz in (500, 700, 5000, 7000)]
    np.testing.assert_allclose(found, [1, 0, 1 - share, share], atol=0.01)
    np.testing.assert_allclose(kept[OUTSIDE], made[OUTSIDE], atol=2e-3)


def test_nothing_comes_in_at_the_other_end():
    at_the_end = np.arange(N) >= N - 20
    kept = keep_consonants(tones(500, 5000), tones(700, 7000), RATE, at_the_end, HOP, 1.0)
    np.testing.assert_allclose(kept[: 170 * HOP], tones(500, 5000)[: 170 * HOP], atol=1e-4)


def test_without_consonants_or_a_share_of_them_all_stays_to_the_bit():
    made, source = tones(500, 5000), tones(700, 7000)
    assert np.array_equal(keep_consonants(made, source, RATE, ~np.ones(N, bool), HOP, 1.0), made)
    assert np.array_equal(keep_consonants(made, source, RATE, VOICELESS, HOP, 0.0), made)


def test_a_whisper_keeps_its_level_and_a_shorter_source_ends_in_silence():
    kept = keep_consonants(tones(500, 5000), tones(700, 7000, 0.05)[: 150 * HOP], RATE, np.ones(N, bool), HOP, 1.0)
    assert power_at(kept[20 * HOP : 140 * HOP], 7000) == pytest.approx(0.05**2, rel=0.02)
    assert power_at(kept[155 * HOP : 195 * HOP], 7000) == pytest.approx(0, abs=1e-5)
