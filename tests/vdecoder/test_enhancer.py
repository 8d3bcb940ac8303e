"""The enhancer keeps length and pitch at every rate and key, and hands the vocoder the F0 at its own rate."""

import numpy as np
import pytest
import torch

from modules.config.audio import AudioSpec
from modules.nn.weight_norm import fold_weight_norm
from vdecoder.enhancer import NsfHifiganEnhancer
from vdecoder.mel_vocoder import NsfHifiganVocoder
from vdecoder.nsf_hifigan import GeneratorSpec, NSFGenerator

AUDIO = AudioSpec(44100, 2048, 512, 2048, 16, 40, 16000)
SPEC = GeneratorSpec(44100, (8, 8, 2, 2, 2), (16, 16, 4, 4, 4), 32, "1", (3,), ((1,),))
HOP = 512


@pytest.fixture
def vocoder() -> NsfHifiganVocoder:
    """An untrained one, which follows its F0; overtones are off, so that the fundamental is the strongest."""
    generator = NSFGenerator(AUDIO.n_mels, SPEC, slow_start=True).eval().requires_grad_(False)
    generator.m_source.l_linear.weight.zero_()[:, 0] = 1
    return NsfHifiganVocoder(fold_weight_norm(generator), AUDIO)


class RecordingVocoder:
    """Keeps what it is asked to synthesize, and gives silence."""

    audio, device = AUDIO, torch.device("cpu")

    def mel(self, wav: torch.Tensor) -> torch.Tensor:
        self.wav = wav
        return torch.zeros(AUDIO.n_mels, len(wav) // AUDIO.hop_length)

    def synthesize(self, mel: torch.Tensor, f0: torch.Tensor) -> torch.Tensor:
        self.f0 = f0
        return torch.zeros(mel.shape[1] * AUDIO.hop_length)


def sine(hz: float, rate: int, seconds: float = 1.0) -> torch.Tensor:
    """(T,) at `rate`, of amplitude 0.3."""
    return 0.3 * torch.sin(2 * torch.pi * hz * torch.arange(int(rate * seconds), dtype=torch.float64) / rate).float()


def strongest(wav: torch.Tensor, rate: int) -> float:
    """Hz of the highest peak above 60 Hz, below which only loudness moves; bins of 0.17 to 0.25 Hz."""
    power = torch.fft.rfft(wav * torch.hann_window(len(wav)), n=1 << 18).abs()
    hz = torch.arange(len(power)) * rate / (1 << 18)
    return hz[power.masked_fill(hz < 60, 0).argmax()].item()


@pytest.mark.parametrize("rate", [32000, 44100, 48000])
@pytest.mark.parametrize("key", [0, 6, -5])
def test_pitch_and_length_stay_at_every_rate_and_key(vocoder, rate, key):
    wav = sine(220, rate, 0.5)[:-37]
    made = NsfHifiganEnhancer(vocoder, rate, HOP, key).enhance(wav, torch.full((len(wav) // HOP,), 220.0))
    assert made.shape == wav.shape and made.dtype == torch.float32
    assert made.isfinite().all()
    assert strongest(made, rate) == pytest.approx(220, rel=0.01)


@pytest.mark.parametrize("n_samples", [2048, 5120, 5121, 5631, 20000])
@pytest.mark.parametrize(("rate", "key"), [(44100, 0), (44100, 2.5), (32000, -12), (48000, 12)])
def test_the_length_is_exact_whatever_it_is(n_samples, rate, key):
    made = NsfHifiganEnhancer(RecordingVocoder(), rate, HOP, key).enhance(
        torch.zeros(n_samples), torch.zeros(n_samples // HOP)
    )
    assert made.shape == (n_samples,)


def test_silence_stays_finite(vocoder):
    made = NsfHifiganEnhancer(vocoder, 44100, HOP, 3).enhance(torch.zeros(20000), torch.zeros(20000 // HOP))
    assert made.shape == (20000,) and made.isfinite().all()


@pytest.mark.parametrize(("key", "written_rate"), [(0, 44100), (6, 62400), (-5, 33000), (12, 88200)])
def test_the_audio_is_written_at_a_rate_of_whole_hundreds_and_read_at_the_vocoders(key, written_rate):
    vocoder = RecordingVocoder()
    NsfHifiganEnhancer(vocoder, 44100, HOP, key).enhance(sine(220, 44100), torch.full((86,), 220.0))
    assert len(vocoder.wav) == pytest.approx(written_rate, abs=1)
    # Read at 44.1 kHz it sounds lower by the ratio of the rates; so is its F0.
    wanted = 220 * 44100 / written_rate
    assert strongest(vocoder.wav, 44100) == pytest.approx(wanted, rel=0.002)
    np.testing.assert_allclose(vocoder.f0, wanted, rtol=1e-6)


@pytest.mark.parametrize("rate", [32000, 44100, 48000])
@pytest.mark.parametrize("key", [0, 6, -5])
def test_a_glide_reaches_the_vocoder_at_its_own_times(rate, key):
    vocoder = RecordingVocoder()
    given = torch.arange(rate // HOP) * HOP / rate  # seconds of each frame of the pitch
    NsfHifiganEnhancer(vocoder, rate, HOP, key).enhance(torch.zeros(rate), 200 + 100 * given)
    slower = 44100 / (100 * round(441 * 2 ** (key / 12)))
    seconds = np.arange(len(vocoder.f0)) * 512 / 44100 * slower  # of the song, at each frame of the vocoder
    wanted = (200 + 100 * np.minimum(seconds, given[-1].item())) * slower  # held at the end
    np.testing.assert_allclose(vocoder.f0, wanted, rtol=1e-5)


def test_without_a_key_at_the_vocoders_rate_nothing_is_resampled():
    vocoder, wav = RecordingVocoder(), sine(220, 44100)
    f0 = 200 + torch.rand(86)
    NsfHifiganEnhancer(vocoder, 44100, HOP).enhance(wav, f0)
    assert torch.equal(vocoder.wav, wav)
    np.testing.assert_allclose(vocoder.f0, f0, rtol=1e-6)


def test_filters_are_made_once(monkeypatch):
    from modules.audio.torchaudio_compat import import_torchaudio

    transforms, made = import_torchaudio().transforms, []
    original = transforms.Resample
    monkeypatch.setattr(
        transforms, "Resample", lambda *rates, **options: made.append(rates) or original(*rates, **options)
    )
    enhancer = NsfHifiganEnhancer(RecordingVocoder(), 48000, HOP, 2)
    for _ in range(3):
        enhancer.enhance(torch.zeros(9600), torch.zeros(18))
    assert len(made) == 2


def test_the_same_twice_gives_the_same_and_leaves_the_random_numbers_of_others(vocoder):
    enhancer, f0 = NsfHifiganEnhancer(vocoder, 44100, HOP), torch.full((44100 // HOP,), 220.0)
    vocoder.generator.m_source.l_linear.weight.fill_(1)  # overtones start anywhere
    before = torch.get_rng_state()
    first, second = (enhancer.enhance(sine(220, 44100), f0) for _ in range(2))
    assert torch.equal(first, second) and first.abs().max() > 0 and torch.equal(torch.get_rng_state(), before)
