"""What is taken of a recording: the upper part of its voiceless frames, as loud as it was beside the vowels."""

import numpy as np
import pytest

from modules.audio.consonants import keep_consonants

RATE, HOP, N = 44100, 512, 200
VOICELESS = np.zeros(N, bool)
VOICELESS[80:120] = True
INSIDE = slice(82 * HOP, 118 * HOP)
OUTSIDE = np.r_[0 : 76 * HOP, 124 * HOP : N * HOP]


def hiss(seed: int, level: float = 0.1, below: float = RATE / 2) -> np.ndarray:
    """White noise up to a frequency."""
    return band(np.random.default_rng(seed).normal(0, level, N * HOP), 0, below).astype(np.float32)


def band(wav: np.ndarray, low: float, high: float) -> np.ndarray:
    spectrum, frequencies = np.fft.rfft(wav), np.fft.rfftfreq(len(wav), 1 / RATE)
    return np.fft.irfft(np.where((frequencies >= low) & (frequencies <= high), spectrum, 0), len(wav))


def shares(kept: np.ndarray, made: np.ndarray, source: np.ndarray, low: float, high: float) -> np.ndarray:
    """How much of either is in a band of the result: amplitudes, by least squares."""
    target, *parts = (band(wav[INSIDE], low, high) for wav in (kept, made, source))
    (found, rest, _, _) = np.linalg.lstsq(np.stack(parts, axis=1), target, rcond=None)
    assert rest < 0.01 * target @ target, "there is something else"
    return found


@pytest.mark.parametrize("level", [0.1, 0.01])
@pytest.mark.parametrize("share", [1.0, 0.25])
def test_the_upper_part_of_voiceless_frames_is_the_sources_at_the_results_level(level, share):
    made, source = hiss(1), hiss(2, level)
    kept = keep_consonants(made, source, RATE, VOICELESS, ~VOICELESS, HOP, share)
    assert kept.dtype == np.float32 and len(kept) == len(made)
    above = [np.sqrt(1 - share), np.sqrt(share) * 0.1 / level]
    np.testing.assert_allclose(shares(kept, made, source, 3000, 20000), above, rtol=0.02, atol=0.02)
    np.testing.assert_allclose(shares(kept, made, source, 0, 1400), [1, 0], atol=0.02)
    np.testing.assert_allclose(kept[OUTSIDE], made[OUTSIDE], atol=0.01)


def test_above_the_end_of_a_recording_at_16_khz_the_voices_own_sound_stays():
    made, source = hiss(1), hiss(2, below=8000)
    kept = keep_consonants(made, source, RATE, VOICELESS, ~VOICELESS, HOP, 1.0)
    assert shares(kept, made, source, 3000, 6500)[0] == pytest.approx(0, abs=0.02)
    np.testing.assert_allclose(band(kept, 9500, 20000)[INSIDE], band(made, 9500, 20000)[INSIDE], atol=0.01)


def test_nothing_comes_in_at_the_other_end():
    at_the_end = np.arange(N) >= N - 20
    kept = keep_consonants(hiss(1), hiss(2), RATE, at_the_end, ~at_the_end, HOP, 1.0)
    np.testing.assert_allclose(kept[: 170 * HOP], hiss(1)[: 170 * HOP], atol=1e-3)


def test_without_consonants_or_a_share_of_them_all_stays_to_the_bit():
    assert np.array_equal(
        keep_consonants(hiss(1), hiss(2), RATE, np.zeros(N, bool), np.ones(N, bool), HOP, 1.0), hiss(1)
    )
    assert np.array_equal(keep_consonants(hiss(1), hiss(2), RATE, VOICELESS, ~VOICELESS, HOP, 0.0), hiss(1))


def test_a_breath_alone_keeps_its_level_whatever_the_voice_makes_of_the_pause_around_it():
    source = hiss(2, 0.05) * np.where(np.repeat(VOICELESS, HOP), 1, 1e-6).astype(np.float32)
    kept = keep_consonants(hiss(1), source, RATE, VOICELESS, np.zeros(N, bool), HOP, 1.0)
    np.testing.assert_allclose(shares(kept, hiss(1), source, 3000, 20000), [0, 1], atol=0.02)


def test_a_whisper_without_a_vowel_keeps_its_level():
    kept = keep_consonants(hiss(1), hiss(2, 0.05), RATE, np.ones(N, bool), np.zeros(N, bool), HOP, 1.0)
    upper, wanted = (band(wav, 3000, 20000)[HOP:-HOP] for wav in (kept, hiss(2, 0.05)))
    np.testing.assert_allclose(upper, wanted, atol=1e-3)
