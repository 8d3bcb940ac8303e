"""Encoders and predictors that remember: the same numbers, fewer calls, bounded memory."""

import numpy as np
import pytest
import torch
from inference.fake_voice import FakeEncoder, FakePredictor, fake_converter, sung

from modules.errors import DataError
from modules.inference.features import CachedEncoder, CachedPredictor, FeatureCache
from modules.inference.options import ConversionOptions


def test_a_song_converted_in_two_keys_is_listened_to_once_and_sounds_the_same():
    wav = sung(2, 16000)
    plain, _, _ = fake_converter()
    calls = []
    cached = CachedEncoder(FakeEncoder(calls)), CachedPredictor(FakePredictor(calls))
    for key in (0, -12):
        converter, _, _ = fake_converter(encoder=cached[0], predictor=cached[1])
        options = ConversionOptions("alto", transpose=key)
        assert np.array_equal(converter.convert_wav(wav, 16000, options), plain.convert_wav(wav, 16000, options))
    assert sorted(kind for kind, _ in calls) == ["encode", "predict"]


def test_other_samples_are_other_audio():
    calls = []
    predictor = CachedPredictor(FakePredictor(calls))
    wav = sung(1, 16000)
    for one in (wav, wav[:-1], -wav, wav, wav.astype(np.float64)):
        predictor.predict(one)
    assert len(calls) == 4


def test_a_batch_is_remembered_as_a_whole():
    class Batches(FakeEncoder):
        def encode_batch(self, wavs):
            return [self.encode(wav) for wav in wavs]

    calls = []
    encoder = CachedEncoder(Batches(calls))
    one, other = sung(1, 16000), sung(2, 16000)
    first, again = encoder.encode_batch([one, other]), encoder.encode_batch([one, other])
    assert len(calls) == 2 and all(map(torch.equal, first, again))
    encoder.encode_batch([other, one])
    assert len(calls) == 4, "rounding may depend on what is beside a clip"


def test_what_is_remembered_is_bounded_and_what_was_used_longest_ago_goes():
    calls = []
    encoder = CachedEncoder(FakeEncoder(calls), limit=1000)  # units of a second have 400 bytes
    songs = [sung(1, 16000, seed) for seed in range(3)]
    for index in (0, 1, 0, 2, 0, 1):  # the third drives the second out, whose return is the fourth call
        encoder.encode(songs[index])
    assert len(calls) == 4


def test_a_released_encoder_gives_what_it_remembers_and_refuses_the_rest():
    encoder = CachedEncoder(FakeEncoder([]))
    wav = sung(1, 16000)
    units = encoder.encode(wav)
    encoder.release()
    assert torch.equal(encoder.encode(wav), units)
    with pytest.raises(DataError, match="unloaded"):
        encoder.encode(wav[1:])


def test_a_cache_builds_each_predictor_once(monkeypatch):
    cache = FeatureCache()
    built = []
    monkeypatch.setattr(
        "modules.inference.features.build_predictor", lambda *a, **s: built.append((a, s)) or FakePredictor([])
    )
    first = cache.predictor("pm", None, threshold=0.05, device="cpu")
    assert cache.predictor("pm", None, device="cpu", threshold=0.05) is first
    assert cache.predictor("pm", None, device="cpu", threshold=0.1) is not first and len(built) == 2
