"""Tones and noise are told apart at any level and rate, however the stream comes."""

import numpy as np
import pytest

from modules.audio.slicer import RmsMeter, slicer_hop
from modules.audio.tonality import ToneMeter


def measure(wav, rate, sizes=(10**9,)):
    meter, at = ToneMeter(rate, slicer_hop(rate)), 0
    for size in [*sizes, len(wav)]:
        meter.push(wav[at : at + size])
        at += size
    return meter.finish()


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 192000])
@pytest.mark.parametrize("level", [1.0, 1e-4])
def test_notes_are_tones_and_noise_is_none(rate, level):
    times = np.arange(2 * rate) / rate
    for pitch in (70, 110, 220, 440, 900):
        note = sum(np.sin(2 * np.pi * k * pitch * times) / k for k in (1, 2, 3)).astype(np.float32)
        assert np.median(measure(level * note, rate)) > 0.9
    noise = np.random.default_rng(0).standard_normal(2 * rate).astype(np.float32)
    rumble = np.cumsum(noise)
    for wav in (noise, rumble - rumble.mean()):
        assert np.percentile(measure(level * wav, rate), 95) < 0.5


def test_digital_silence_is_no_tone():
    assert not measure(np.zeros(44100, np.float32), 44100).any()


@pytest.mark.parametrize("n_samples", [1, 881, 882, 883, 44100, 50000])
def test_there_is_one_value_for_each_of_loudness_whatever_the_blocks(n_samples):
    wav = np.random.default_rng(1).standard_normal(n_samples).astype(np.float32)
    loudness = RmsMeter(44100)
    loudness.push(wav)
    whole = measure(wav, 44100)
    assert len(whole) == len(loudness.finish())
    assert np.array_equal(whole, measure(wav, 44100, (1, 2, 881, 5000, 3)))
