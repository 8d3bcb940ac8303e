"""Spectra against so-vits-svc's own numbers, against librosa, and by their frame count."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from modules.audio.loudness import frame_volume
from modules.audio.mel import (
    centered_log_mel,
    mel_filters,
    mel_from_spectrogram,
    mel_spectrogram,
    spectrogram,
    vocoder_mel,
)
from modules.config.audio import AudioSpec
from modules.errors import AudioError

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"
VITS = AudioSpec(44100, 2048, 512, 2048, 80, 0.0, 22050.0)
VOCODER = AudioSpec(44100, 2048, 512, 2048, 128, 40.0, 16000.0)
RMVPE = AudioSpec(16000, 1024, 160, 1024, 128, 30.0, 8000.0)


@pytest.fixture(scope="module")
def rule():
    return np.load(GOLDENS / "rule" / "spectrograms_volume.npz")


@pytest.fixture(scope="module")
def dsp():
    return np.load(GOLDENS / "tiny" / "dsp.npz")


@pytest.fixture(scope="module")
def wav(rule):
    return torch.from_numpy(rule["in_wav_int16"].astype(np.float32) / 32768)


@pytest.mark.parametrize("htk", [False, True])
@pytest.mark.parametrize("audio", [VITS, VOCODER, RMVPE, AudioSpec(16000, 400, 160, 400, 80, 0.0, 8000.0)])
def test_the_filters_are_exactly_librosas(audio, htk):
    from librosa.filters import mel

    sizes = {"n_fft": audio.n_fft, "n_mels": audio.n_mels, "fmin": audio.fmin, "fmax": audio.fmax}
    assert np.array_equal(
        mel_filters(audio, torch.device("cpu"), htk).numpy(), mel(sr=audio.sampling_rate, **sizes, htk=htk)
    )


def test_spectrogram_and_training_mel_equal_the_goldens(rule, wav):
    spec = spectrogram(wav[None], VITS)
    assert np.allclose(spec.numpy(), rule["spec"], rtol=1e-5, atol=1e-5)
    assert np.allclose(mel_from_spectrogram(spec, VITS).numpy(), rule["mel80"], atol=1e-4)
    assert torch.equal(mel_spectrogram(wav[None], VITS), mel_from_spectrogram(spec, VITS))


@pytest.mark.parametrize("key", ["0", "3.7", "-2.3"])
def test_vocoder_mel_with_key_shift_equals_the_goldens(rule, wav, key):
    mel, wanted = vocoder_mel(wav[None], VOCODER, float(key)).numpy(), rule[f"nvstft_mel_key{key}"]
    # Above the 8 kHz band of this clip there is only the FFT's own rounding, about 1e-7: compare without the log.
    assert np.allclose(np.exp(mel), np.exp(wanted), rtol=1e-4, atol=1e-7)
    assert np.median(np.abs(mel - wanted)) < 1e-5


def test_vocoder_mel_of_a_clip_too_short_to_reflect_equals_the_golden(rule, wav):
    short = wav[: int(rule["in_short_n"])]
    assert np.allclose(vocoder_mel(short[None], VOCODER).numpy(), rule["nvstft_mel_short_const"], atol=1e-4)


def test_spectra_of_the_synthetic_signal_equal_the_goldens(dsp):
    signal, columns = torch.from_numpy(dsp["sig"]), [0, 9, 100]
    assert np.allclose(spectrogram(signal, VITS)[:, columns].numpy(), dsp["spec_frames_0_9_100"], rtol=1e-4, atol=1e-5)
    assert np.allclose(mel_spectrogram(signal, VITS)[:, columns].numpy(), dsp["mel80_frames"], atol=1e-4)
    for key in ("0", "3.3", "-4.2"):
        mel = vocoder_mel(signal, VOCODER, float(key))
        assert mel.shape == tuple(dsp[f"nvmel_shape_k{key}"][-2:])
        assert np.allclose(mel[:, columns].numpy(), dsp[f"nvmel_k{key}"], atol=1e-4)
    centered = centered_log_mel(signal[:16000], RMVPE)[:, [0, 9, 50]]
    assert np.allclose(centered.numpy(), dsp["rmvpe_mel"], atol=1e-4)


def test_volume_equals_the_goldens(rule, dsp, wav):
    for hop in (512, 441):
        assert np.allclose(frame_volume(wav, hop).numpy(), rule[f"volume_hop{hop}"], atol=1e-6)
    assert np.allclose(frame_volume(torch.from_numpy(dsp["sig"]), 512).numpy(), dsp["volume"], atol=1e-6)
    assert torch.allclose(frame_volume(torch.arange(1.0, 12.0), 4), torch.tensor([2.1213, 4.6368]), atol=1e-4)


@pytest.mark.parametrize("n_samples", [769, 1023, 1024, 1025, 5000, 44100, 51199, 51201])
def test_every_length_has_t_over_hop_frames(n_samples):
    wav = torch.randn(n_samples) * 0.1
    assert spectrogram(wav, VITS).shape == (1025, VITS.n_frames(n_samples))
    assert frame_volume(wav, 512).shape == (VITS.n_frames(n_samples),)


def test_too_short_a_clip_is_refused_in_words():
    with pytest.raises(AudioError, match="768 samples are too short"):
        spectrogram(torch.zeros(768), VITS)
    assert frame_volume(torch.zeros(511), 512).shape == (0,)


def test_filters_of_two_specs_do_not_mix():
    other = AudioSpec(44100, 2048, 512, 2048, 40, 0.0, 22050.0)
    cpu = torch.device("cpu")
    assert mel_filters(VITS, cpu).shape == (80, 1025) and mel_filters(other, cpu).shape == (40, 1025)
    assert mel_filters(VITS, cpu) is mel_filters(AudioSpec(44100, 2048, 512, 2048, 80, 0.0, 22050.0), cpu)


def test_the_mel_of_silence_has_a_finite_gradient():
    wav = torch.zeros(4096, requires_grad=True)
    mel_spectrogram(wav, VITS).sum().backward()
    assert torch.isfinite(wav.grad).all()


def test_half_precision_input_is_computed_in_full():
    wav = torch.randn(4096) * 0.1
    assert spectrogram(wav.bfloat16(), VITS).dtype == torch.float32


def test_a_spectrum_taken_in_inference_mode_does_not_keep_training_from_its_own():
    spec = replace(VITS, win_length=2046, n_mels=79)  # one that no other test has asked for
    wav = torch.randn(8192)
    with torch.inference_mode():
        mel_spectrogram(wav, spec)
    wav.requires_grad_()
    mel_spectrogram(wav, spec).sum().backward()
    assert torch.isfinite(wav.grad).all()
