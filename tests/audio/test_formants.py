"""Moved formants: a vowel becomes the vowel with all formants moved, with the same harmonics."""

import numpy as np
import pytest
import scipy.signal

from modules.audio import formants
from modules.audio.formants import move_formants

RATE = 16000
N = RATE // 2


def vowel(f0: float, ratio: float = 1.0) -> np.ndarray:
    """A buzz through three resonances, half a second."""
    phase = 2 * np.pi * f0 * np.arange(N) / RATE
    wav = sum(np.cos(k * phase) / k for k in range(1, int(7500 / f0)))
    for frequency, width in ((660, 80), (1120, 100), (2600, 150)):
        r = np.exp(-np.pi * width / RATE)
        wav = scipy.signal.lfilter([1 - r], [1, -2 * r * np.cos(2 * np.pi * frequency * ratio / RATE), r * r], wav)
    return (0.3 * wav / np.abs(wav).max()).astype(np.float32)


def levels(wav: np.ndarray, f0: float) -> np.ndarray:
    """dB of the harmonics up to 4.5 kHz, without their mean."""
    inside = slice(1500, N - 1500)
    turns = np.exp(-2j * np.pi * f0 * np.outer(np.arange(1, int(4500 / f0) + 1), np.arange(N)[inside]) / RATE)
    found = 20 * np.log10(np.abs(turns @ (wav[inside] * np.hanning(N - 3000))))
    return found - found.mean()


@pytest.mark.parametrize("f0", [150.0, 330.0])
@pytest.mark.parametrize("semitones", [-3, 4])
def test_formants_move_by_their_ratio_within_five_percent(f0, semitones):
    moved = move_formants(vowel(f0), RATE, semitones, np.full(50, f0, np.float32))
    steps = np.arange(semitones - 1.5, semitones + 1.6, 0.25)
    errors = [np.std(levels(moved, f0) - levels(vowel(f0, 2 ** (step / 12)), f0)) for step in steps]
    assert abs(steps[np.argmin(errors)] - semitones) <= 0.75, "0.84 semitones are 5 percent"
    assert min(errors) < 4 < np.std(levels(vowel(f0), f0) - levels(moved, f0))


def test_the_harmonics_stay_where_they_are():
    moved = np.abs(np.fft.rfft(move_formants(vowel(200.0), RATE, 4, np.full(50, 200, np.float32)) * np.hanning(N)))
    loud = np.flatnonzero(moved > 0.03 * moved.max()) * RATE / N
    assert len(loud) > 5 and np.abs(loud - 200 * np.round(loud / 200)).max() <= 2 * RATE / N


@pytest.mark.parametrize("length", [0, 1, 700, N])
def test_the_length_stays_whatever_the_frames(length):
    for n_frames in (0, length // 512):
        moved = move_formants(vowel(150.0)[:length], RATE, 2, np.full(n_frames, 150, np.float32))
        assert moved.shape == (length,) and moved.dtype == np.float32 and np.isfinite(moved).all()


def test_no_shift_gives_the_sound_back_and_silence_stays_silent():
    wav, f0 = vowel(150.0), np.full(50, 150, np.float32)
    np.testing.assert_allclose(move_formants(wav, RATE, 0, f0), wav, atol=1e-6)
    assert not move_formants(np.zeros(N, np.float32), RATE, 3, np.zeros(50, np.float32)).any()


def test_blocks_do_not_change_the_result(monkeypatch):
    wav, f0 = np.tile(vowel(150.0), 4), np.full(200, 150, np.float32)
    whole = move_formants(wav, RATE, 3, f0)
    monkeypatch.setattr(formants, "BLOCK_FRAMES", 20)
    np.testing.assert_allclose(move_formants(wav, RATE, 3, f0), whole, atol=1e-3)
