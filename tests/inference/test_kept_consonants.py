"""`--keep_consonants`: what of a recording's own sound reaches the result, and what does not."""

import numpy as np
import pytest
from inference.fake_voice import AUDIO, FakePredictor, fake_converter, sung

from modules.contracts import F0
from modules.errors import UsageError
from modules.inference.options import ConversionOptions

RATE, HOP = AUDIO.sampling_rate, AUDIO.hop_length
CONSONANT = slice(RATE, round(1.3 * RATE))  # of the song below
INSIDE = slice(round(1.05 * RATE), round(1.25 * RATE))


class Listener(FakePredictor):
    """Hears a pitch in what crosses zero as seldom as the tone of `sung`."""

    def predict(self, wav):
        f0 = super().predict(wav)
        crossings = np.diff(wav > 0, append=False)[: len(f0.uv) * HOP].reshape(-1, HOP).mean(axis=1)
        return F0(f0.f0, (crossings < 0.2).astype(np.float32))


def song(level: float) -> np.ndarray:
    wav = sung(3, RATE)
    hiss = np.random.default_rng(0).normal(0, level, CONSONANT.stop - CONSONANT.start)
    wav[CONSONANT] = np.diff(hiss, prepend=0)  # rises with frequency, as an s does
    return wav


def convert(wav: np.ndarray, **options) -> np.ndarray:
    converter, _, _ = fake_converter(predictor=Listener([]))
    return converter.convert_wav(wav, RATE, ConversionOptions("alto", **options))


def upper(wav: np.ndarray) -> np.ndarray:
    spectrum = np.fft.rfft(wav)
    return np.fft.irfft(np.where(np.fft.rfftfreq(len(wav), 1 / RATE) > 2600, spectrum, 0), len(wav))


def test_the_consonant_is_the_recordings_and_the_rest_the_voices():
    source = song(0.1)
    plain, kept = convert(source), convert(source, kept_consonants=1.0)
    assert np.corrcoef(upper(plain)[INSIDE], upper(source)[INSIDE])[0, 1] < 0.2
    assert np.corrcoef(upper(kept)[INSIDE], upper(source)[INSIDE])[0, 1] > 0.99
    level = np.std(upper(kept)[INSIDE]) / np.std(upper(source)[INSIDE])
    assert level == pytest.approx(np.sqrt(np.mean(plain[:RATE] ** 2) / np.mean(source[:RATE] ** 2)), rel=0.1)
    beside = np.r_[0 : CONSONANT.start - 5 * HOP, CONSONANT.stop + 5 * HOP : len(plain)]
    np.testing.assert_allclose(kept[beside], plain[beside], atol=1e-3)


def test_a_pause_stays_as_the_voice_made_it():
    source = song(0.001)
    plain = convert(source)[INSIDE]
    np.testing.assert_allclose(convert(source, kept_consonants=1.0)[INSIDE], plain, atol=1e-4)
    assert np.abs(convert(source, kept_consonants=1.0, slice_db=-80.0)[INSIDE] - plain).max() > 1e-3


def test_a_cut_segment_sounds_like_the_whole():
    source, options = song(0.1), {"kept_consonants": 1.0}
    whole, cut = convert(source, **options), convert(source, **options, max_segment_seconds=2.0)
    np.testing.assert_allclose(cut[INSIDE], whole[INSIDE], atol=0.02)
    assert len(cut) == len(whole)


def test_it_is_another_request_and_the_result_says_so(tmp_path):
    converter, _, _ = fake_converter()
    (tmp_path / "song.wav").touch()
    plain, kept = (ConversionOptions("alto", kept_consonants=share) for share in (0.0, 0.5))
    assert converter.key(tmp_path / "song.wav", plain) != converter.key(tmp_path / "song.wav", kept)
    assert '"keep_consonants": 0.5' in str(converter.metadata(tmp_path / "song.wav", kept))
    assert "keep_consonants" not in str(converter.metadata(tmp_path / "song.wav", plain))


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_what_is_no_share_is_refused(share):
    with pytest.raises(UsageError, match=r"--keep_consonants is .*between 0 and 1"):
        ConversionOptions("alto", kept_consonants=share)
