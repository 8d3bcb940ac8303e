"""One filter bank for each pair of rates, torchaudio's own numbers, and no gigabytes for awkward pairs."""

import numpy as np
import pytest
import torch
from inference.fake_voice import sung

from modules.audio.resampling import MOST_FILTERS, SincResampler
from modules.audio.torchaudio_compat import import_torchaudio


@pytest.fixture
def resample():
    return SincResampler(torch.device("cpu"))


@pytest.mark.parametrize("rate", [8000, 22050, 48000, 96000])
def test_the_numbers_are_torchaudios(resample, rate):
    wav = torch.from_numpy(sung(0.3, rate))
    assert torch.equal(resample(wav, rate, 44100), import_torchaudio().transforms.Resample(rate, 44100)(wav))


def test_a_file_of_another_rate_gets_its_own_filters(resample):
    first = torch.from_numpy(sung(0.1, 48000))
    second = torch.from_numpy(sung(0.1, 32000))
    resample(first, 48000, 44100)
    assert len(resample(second, 32000, 44100)) == 4410
    assert len(resample(second, 32000, 16000)) == 1600
    assert len(resample(first, 48000, 44100)) == 4410


def test_a_server_that_meets_many_rates_keeps_the_filters_of_a_few(resample):
    first = resample(torch.from_numpy(sung(0.1, 48000)), 48000, 44100)
    for rate in range(8000, 28000, 1000):
        resample(torch.zeros(10), rate, 1000)
    assert len(resample._filters) == MOST_FILTERS
    assert torch.equal(resample(torch.from_numpy(sung(0.1, 48000)), 48000, 44100), first)


def test_equal_rates_change_nothing(resample):
    wav = torch.from_numpy(sung(0.1, 16000))
    assert torch.equal(resample(wav, 16000, 16000), wav)


@pytest.mark.parametrize("rate", [44056, 44101, 11027])
def test_rates_without_a_common_divisor_keep_pitch_and_length(resample, rate):
    wav = torch.from_numpy(sung(1, rate))
    out = resample(wav, rate, 44100)
    assert len(out) == -(-len(wav) * 44100 // rate)
    spectrum = np.abs(np.fft.rfft(out.numpy()))
    assert np.argmax(spectrum) == 220
