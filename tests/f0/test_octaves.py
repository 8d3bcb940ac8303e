"""Octave errors of any predictor are repaired or said; what is right keeps its bits, a singer's real leaps too."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signals import formant_voice, sung

from modules.config.audio import AudioSpec
from modules.f0.base import PitchPredictor, build_predictor
from modules.f0.octaves import autocorrelation, check_octaves, find_contradictions

RATE, HOP = 44100, 512 / 44100
AUDIO = AudioSpec(RATE, 2048, 512, 2048, 80, 0.0, 22050.0)


def frames_of(f0: np.ndarray) -> np.ndarray:
    """The true curve at our frames of a pitch (T,) for each sample."""
    return f0[::512][: len(f0) // 512].astype(np.float64)


def melody(middle: float, seconds: float = 2.0) -> np.ndarray:
    """A pitch (T,) with vibrato that wanders three semitones around `middle` Hz."""
    t = np.arange(int(seconds * RATE)) / RATE
    return middle * 2 ** ((3 * np.sin(2.5 * t) + 0.3 * np.sin(2 * np.pi * 5.5 * t)) / 12)


def check(wav, curve, f0_min=50.0, f0_max=1100.0):
    return check_octaves(wav, RATE, HOP, curve, f0_min, f0_max)


def cents(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return np.abs(1200 * np.log2(found / wanted))


def test_the_autocorrelation_is_the_same_with_torch_and_without(monkeypatch):
    sound, times = np.random.default_rng(0).standard_normal(11025, np.float32), np.linspace(0, 1, 50)
    with_torch = autocorrelation(sound, times)
    monkeypatch.delitem(sys.modules, "torch")
    for found, wanted in zip(autocorrelation(sound, times), with_torch, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)
        assert found.dtype == np.float32


@pytest.mark.parametrize("factor", [1 / 3, 1 / 2, 2, 3])
@pytest.mark.parametrize("middle", [75.0, 110.0, 180.0, 330.0])
def test_a_curve_that_is_off_throughout_is_repaired(middle, factor):
    f0 = melody(middle)
    truth = frames_of(f0)
    wrong = truth * factor
    if not (wrong.min() > 50 and wrong.max() < 1100):
        pytest.skip("no predictor finds that")
    found, heard = check(formant_voice(f0, RATE), wrong)
    assert cents(found, truth)[3:-3].max() < 1
    assert not heard.any()


def test_single_notes_that_are_off_are_repaired_and_the_others_keep_their_bits():
    f0 = melody(150.0)
    truth = frames_of(f0)
    wrong = truth.copy()
    wrong[40:60] *= 2
    wrong[100:110] /= 2
    found, heard = check(formant_voice(f0, RATE), wrong)
    np.testing.assert_allclose(found, truth, rtol=1e-12)
    same = wrong == truth
    np.testing.assert_array_equal(found[same], truth[same])
    assert not heard.any()


@settings(max_examples=15, deadline=None)
@given(
    st.floats(60, 1050),
    st.floats(0, 24),
    st.sampled_from([1.0, 0.3, 0.03, 1e-3]),
    st.sampled_from([0.0, 0.003, 0.02]),
    st.integers(0, 99),
)
def test_a_right_curve_keeps_its_bits(middle, tilt, gain, noise, seed):
    f0 = middle * 2 ** (0.3 / 12 * np.sin(2 * np.pi * 5.5 * np.arange(RATE) / RATE))
    wav = formant_voice(f0, RATE, tilt) + noise * np.random.default_rng(seed).standard_normal(RATE)
    truth = frames_of(f0)
    truth[: 10 if 70 < middle < 950 else 0] = 0
    found, heard = check(gain * wav, truth)
    np.testing.assert_array_equal(found, truth)
    assert not heard.any()


@settings(max_examples=15, deadline=None)
@given(st.floats(60, 1500), st.floats(0, 24), st.sampled_from([1 / 2, 1, 2]), st.sampled_from([1.0, 0.03]))
def test_any_octave_of_any_voice_is_right_or_contradicted(middle, tilt, factor, gain):
    f0 = middle * 2 ** (0.2 / 12 * np.sin(2 * np.pi * 5.5 * np.arange(RATE) / RATE))
    truth = frames_of(f0)
    if not 50 < middle * factor < 1050:
        factor = 1 if middle < 1050 else 0
    curve = truth * factor
    found, heard = check(gain * formant_voice(f0, RATE, tilt), curve)
    inner = slice(5, -5)
    # Up to a semitone above the limit is clipped to it, and no contradiction.
    assert ((cents(np.maximum(found, 1), truth) < 105) | (heard > 0))[inner].mean() > 0.8


def test_a_yodel_is_no_error():
    at = np.arange(3 * RATE) // (RATE // 4) % 2
    f0 = np.where(at, 392.0, 196.0)
    truth = frames_of(f0)
    found, heard = check(formant_voice(f0, RATE), truth)
    np.testing.assert_array_equal(found, truth)
    assert not heard.any()


def test_a_yodel_in_a_curve_with_errors_stays():
    f0 = np.repeat([196.0, 392.0, 220.0, 440.0, 196.0], RATE)
    truth = frames_of(f0)
    wrong = truth.copy()
    wrong[10:70] *= 2
    found, _ = check(formant_voice(f0, RATE), wrong)
    settled = np.abs(np.arange(len(truth)) % (RATE / 512) - RATE / 1024) < RATE / 1024 - 6
    assert cents(found, truth)[settled].max() < 30


@pytest.mark.parametrize("kind", ["noise", "silence", "short"])
def test_what_is_no_voice_is_left_alone(kind):
    n = 3000 if kind == "short" else RATE
    wav = np.random.default_rng(0).standard_normal(n) * (kind != "silence")
    for curve in (np.zeros(n // 512), np.random.default_rng(1).uniform(60, 900, n // 512)):
        found, heard = check(wav, curve)
        assert found.shape == heard.shape == curve.shape and np.isfinite(found).all()
        assert ((found > 0) == (curve > 0)).all() and not heard.any()


def test_a_recording_longer_than_a_block_is_as_good(monkeypatch):
    f0 = melody(140.0)
    wav, truth = formant_voice(f0, RATE), frames_of(f0)
    wrong = np.where(np.arange(len(truth)) > 80, 2 * truth, truth)
    whole = check(wav, wrong)
    monkeypatch.setattr("modules.f0.octaves.BLOCK_FRAMES", 50)
    np.testing.assert_array_equal(check(wav, wrong), whole)
    assert cents(whole[0], truth)[3:-3].max() < 1


@pytest.mark.parametrize("pitch", [1319.0, 1568.0])
@pytest.mark.parametrize("curve", ["unvoiced", "an octave low", "at the limit"])
def test_notes_above_the_limit_are_contradicted_and_followed_with_a_higher_one(pitch, curve):
    f0 = np.full(RATE, pitch)
    n = RATE // 512
    given_curve = np.full(n, {"unvoiced": 0.0, "an octave low": pitch / 2, "at the limit": 1100.0}[curve])
    wav = formant_voice(f0, RATE)
    _, heard = check(wav, given_curve)
    assert cents(np.median(heard[5:-5]), pitch) < 30
    np.testing.assert_array_equal(find_contradictions(wav, RATE, HOP, given_curve, 50.0, 1100.0), heard)
    if curve == "an octave low":
        found, heard = check(wav, given_curve, f0_max=2000.0)
        assert cents(found, pitch)[5:-5].max() < 1 and not heard[5:-5].any()


def test_a_bass_below_the_limit_is_contradicted():
    wav, n = formant_voice(np.full(RATE, 43.0), RATE), RATE // 512
    for curve in (np.zeros(n), np.full(n, 86.0)):
        assert cents(np.median(check(wav, curve)[1][5:-5]), 43.0) < 50


class Doubling(PitchPredictor):
    """Stands for a network that hears everything an octave high."""

    name = "doubling"

    def track(self, wav, n_frames):
        return np.full(n_frames, 220.0)


def test_every_predictor_is_checked_wherever_it_comes_from():
    found = Doubling(AUDIO, device="cpu").predict(sung(np.full(RATE, 110.0), RATE))
    np.testing.assert_array_equal(found.f0, 110.0)


@pytest.mark.parametrize("name", ["pm", "dio", "harvest", "fcpe"])
@pytest.mark.parametrize("pitch", [62.0, 1000.0, 1319.0, 1568.0])
def test_low_and_high_notes_are_right_or_said(name, pitch):
    f0 = pitch * 2 ** (0.3 / 12 * np.sin(2 * np.pi * 5.5 * np.arange(RATE) / RATE))
    found = build_predictor(name, AUDIO, device="cpu").predict(formant_voice(f0, RATE))
    truth, inner = frames_of(f0), slice(6, -6)
    is_right = (found.uv > 0) & (cents(np.maximum(found.f0, 1), truth) < 60)
    assert (is_right | (found.heard > 0))[inner].mean() > 0.95
    assert is_right[inner].mean() > 0.95 or pitch > 1100


@pytest.mark.parametrize("name", ["pm", "dio", "harvest"])
def test_a_higher_limit_follows_a_whistle(name):
    f0 = 1568 * 2 ** (0.3 / 12 * np.sin(2 * np.pi * 5.5 * np.arange(RATE) / RATE))
    found = build_predictor(name, AUDIO, device="cpu", f0_max=2000.0).predict(formant_voice(f0, RATE))
    assert cents(found.f0, frames_of(f0))[6:-6].max() < 60
    assert not found.heard.any()


def test_a_moment_that_repeats_every_second_period_is_no_octave_error():
    """A rough onset, or the noise of a converted voice, doubles the period for some frames: the melody decides."""
    t = np.arange(2 * RATE) / RATE
    wav = 0.3 * sum(np.sin(2 * np.pi * 220 * k * t) / k for k in range(1, 9))
    rough = slice(int(0.9 * RATE), int(1.05 * RATE))
    wav[rough] += 0.4 * sum(np.sin(2 * np.pi * 110 * k * t[rough]) / k for k in range(1, 9))
    curve = np.full(int(2 / HOP), 220.0)
    assert np.array_equal(check(wav, curve)[0], curve)


@pytest.mark.parametrize("middle", [110.0, 150.0, 200.0, 300.0, 440.0, 600.0])
def test_a_voice_whose_every_second_pulse_is_weaker_is_not_taken_down(middle):
    """Rough singing: odd multiples of half the pitch, 18 dB below the others."""
    f0 = melody(middle)
    wav = formant_voice(f0, RATE) * (1 + 0.25 * np.cos(np.pi * np.cumsum(f0) / RATE))
    truth = frames_of(f0)
    found, heard = check(wav, truth)
    np.testing.assert_array_equal(found, truth)
    assert not heard.any()
