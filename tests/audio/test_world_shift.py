"""A vowel of known pitch and formants is moved, and silence and consonants are left alone."""

import numpy as np
import parselmouth
import pytest

from modules.audio.world_shift import shift_pitch, voiced_share
from modules.evaluation.scale import synthesize_vowel

RATE, HOP, HZ = 16000, 160, 165.0
VOWEL = synthesize_vowel((730, 1090, 2440), RATE)
CURVE = np.full(len(VOWEL) // HOP, HZ)


def measure(wav: np.ndarray) -> tuple[float, list[float]]:
    """Median pitch, and the first two formants, by praat."""
    sound = parselmouth.Sound(wav.astype(np.float64), RATE)
    pitch = sound.to_pitch(pitch_ceiling=800).selected_array["frequency"]
    formants = sound.to_formant_burg(maximum_formant=5000)
    times = np.linspace(0.4, 1.1, 20)
    return np.median(pitch[pitch > 0]), [np.median([formants.get_value_at_time(n, t) for t in times]) for n in (1, 2)]


@pytest.mark.parametrize("semitones", [-7, 5, 12])
def test_the_pitch_moves_and_the_formants_and_the_length_stay(semitones):
    moved = shift_pitch(VOWEL, RATE, CURVE, HOP, np.full(len(CURVE), semitones))
    (before, formants), (after, same) = measure(VOWEL), measure(moved)
    assert len(moved) == len(VOWEL) and moved.dtype == np.float32 and np.isfinite(moved).all()
    assert 12 * np.log2(after / before) == pytest.approx(semitones, abs=0.1)
    # Harmonics 110 to 330 Hz apart show a formant to half their distance.
    np.testing.assert_allclose(same, formants, atol=max(120, HZ * 2 ** (semitones / 12) / 2))
    levels = [20 * np.log10(np.sqrt(np.mean(wav**2))) for wav in (VOWEL, moved)]
    assert abs(levels[1] - levels[0]) < 3


@pytest.mark.parametrize("n_samples", [16000, 16001, 15999, 700])
def test_the_length_is_exact_whatever_the_frames(n_samples):
    wav = VOWEL[:n_samples]
    assert len(shift_pitch(wav, RATE, CURVE[: n_samples // HOP], HOP, np.full(n_samples // HOP, 3))) == n_samples


def test_unvoiced_sound_stays_sample_by_sample():
    curve, all_of_it = CURVE.copy(), np.full(len(CURVE), 5)
    curve[50:] = 0
    moved = shift_pitch(VOWEL, RATE, curve, HOP, all_of_it)
    quiet = slice(56 * HOP, None)
    np.testing.assert_array_equal(moved[quiet], VOWEL[quiet])
    assert not np.allclose(moved[: 49 * HOP], VOWEL[: 49 * HOP], atol=0.01)
    in_part = shift_pitch(VOWEL, RATE, CURVE, HOP, np.where(curve > 0, 5, 0))
    np.testing.assert_array_equal(in_part[quiet], VOWEL[quiet])
    np.testing.assert_allclose(in_part[: 48 * HOP], moved[: 48 * HOP], atol=0.02)
    assert shift_pitch(VOWEL, RATE, 0 * curve, HOP, all_of_it) is VOWEL
    assert shift_pitch(VOWEL, RATE, CURVE, HOP, 0 * all_of_it) is VOWEL


def test_voiced_sound_comes_and_goes_without_a_step():
    voiced = np.zeros(40, bool)
    voiced[10:20] = True
    share = voiced_share(voiced, HOP, 40 * HOP)
    assert share[10 * HOP : 19 * HOP + 1].min() == 1 and share[: 6 * HOP].max() == share[25 * HOP :].max() == 0
    assert np.abs(np.diff(share)).max() < 1.01 / 4 / HOP
