"""Clips are prepared in the background and finished in batches; one bad clip costs nothing but itself."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from signals import sung

from modules.config.audio import AudioSpec
from modules.config.vocoder import PUBLISHED_MEL
from modules.contracts import F0
from modules.data.extraction import Extracted, Networks, extract, in_background
from modules.data.features import FeatureRecipe, load, load_diffusion, missing

AUDIO = AudioSpec(44100, 2048, 512, 2048, 80, 0.0, 22050.0)
RECIPE = FeatureRecipe("fake:1", "dio", AUDIO)


class BatchEncoder:
    """Units (2, T // 320) that hold the clip's own loudness; remembers its batches."""

    name, dim, sampling_rate, hop_length = "fake", 2, 16000, 320

    def __init__(self, fails=lambda wavs: False):
        self.batches, self.fails = [], fails

    def encode_batch(self, wavs):
        self.batches.append([len(wav) for wav in wavs])
        if self.fails(wavs):
            raise RuntimeError("CUDA out of memory")
        return [torch.full((2, len(wav) // 320), float(np.abs(wav).max())) for wav in wavs]

    def encode(self, wav):
        return self.encode_batch([wav])[0]


class Predictor:
    name = "dio"

    def __init__(self, voiced=True):
        self.voiced = voiced

    def predict(self, wav):
        n = len(wav) // 512
        return F0(np.full(n, 220.0 * self.voiced, np.float32), np.full(n, self.voiced, np.float32))


@pytest.fixture
def clips(tmp_path) -> list[Path]:
    """Clips of 1.0, 1.1, ... seconds, each with a loudness of its own, in mixed order."""
    paths = []
    for index in (3, 0, 5, 1, 4, 2):
        path = tmp_path / "alto" / f"{index}.wav"
        path.parent.mkdir(exist_ok=True)
        tone = sung(np.full(44100 + 4410 * index, 220.0), 44100)
        soundfile.write(path, tone / np.abs(tone).max() * (index + 1) / 10, 44100, subtype="FLOAT")
        paths.append(path)
    return paths


def prepare(clips, later):
    for path in clips:
        yield path, extract(path, RECIPE, BatchEncoder(), Predictor(), later)


@pytest.mark.parametrize("later", [("units",), ("units", "f0")])
@pytest.mark.parametrize("batch_seconds", [0.0, 2.5, 100.0])
def test_every_clip_gets_its_own_features_whatever_the_batches(clips, later, batch_seconds):
    encoder = BatchEncoder()
    networks = Networks(RECIPE, encoder, Predictor(), batch_seconds)
    results = dict(networks.finish(in_background(prepare(clips, later), 2)))
    assert set(results) == set(clips)
    for path in clips:
        assert sorted(results[path].names) == ["f0", "spec", "units"] and not missing(path, RECIPE)
        units = load(path, AUDIO, "fake").units
        assert units.mean().item() == pytest.approx((int(path.stem) + 1) / 10, rel=0.02)
    for batch in encoder.batches:
        assert batch == sorted(batch) and (len(batch) == 1 or len(batch) * max(batch) <= batch_seconds * 16000)
    assert len(encoder.batches) == {0.0: 6, 2.5: 5, 100.0: 1}[batch_seconds]


def test_mels_are_made_by_the_workers_whatever_waits_for_the_networks(clips):
    recipe = FeatureRecipe("fake:1", "dio", AUDIO, mel=PUBLISHED_MEL)
    made = extract(clips[0], recipe, None, None, later=("units", "f0"))
    assert made.names == ["spec", "volume", "mel", "augmented"] and missing(clips[0], recipe) == ["units", "f0"]
    (_, finished), *_ = Networks(recipe, BatchEncoder(), Predictor(), 100.0).finish([(clips[0], made)])
    assert sorted(finished.names) == ["augmented", "f0", "mel", "spec", "units", "volume"]
    assert load_diffusion(clips[0], AUDIO, PUBLISHED_MEL, "fake").mel.shape[0] == 128


def test_a_batch_that_does_not_fit_goes_through_one_by_one(clips):
    encoder = BatchEncoder(fails=lambda wavs: len(wavs) > 1 or len(wavs[0]) > 23500)
    results = dict(Networks(RECIPE, encoder, None, 100.0).finish(prepare(clips, ("units",))))
    failed = [path for path, made in results.items() if isinstance(made, Exception)]
    assert [path.stem for path in failed] == ["5"] and "out of memory" in str(results[failed[0]])
    assert missing(failed[0], RECIPE) == ["units"]
    assert all(not missing(path, RECIPE) for path in clips if path not in failed)


def test_errors_and_finished_clips_pass_through(clips):
    broken = OSError("gone")
    items = [(clips[0], broken), (clips[1], Extracted(["f0"]))]
    assert list(Networks(RECIPE, None, None).finish(items)) == items


def test_a_clip_without_pitch_says_so(clips):
    assert extract(clips[0], RECIPE, BatchEncoder(), Predictor(voiced=False)).unvoiced
    made = extract(clips[1], RECIPE, BatchEncoder(), None, later=("units", "f0"))
    assert not made.unvoiced
    (_, finished), *_ = Networks(RECIPE, BatchEncoder(), Predictor(voiced=False)).finish([(clips[1], made)])
    assert finished.unvoiced
    assert not extract(clips[2], RECIPE, BatchEncoder(), Predictor()).unvoiced


def test_the_background_stays_within_its_queue_and_ends_with_its_reader():
    produced, closed = [], threading.Event()

    def numbers():
        try:
            for number in range(1000):
                produced.append(number)
                yield number
        finally:
            closed.set()

    ahead = in_background(numbers(), 3)
    assert [next(ahead) for _ in range(2)] == [0, 1]
    time.sleep(0.3)
    assert len(produced) <= 2 + 3 + 1
    ahead.close()
    assert closed.is_set()


def test_what_goes_wrong_in_the_background_is_raised_in_front():
    def numbers():
        yield 1
        raise KeyError("lost")

    ahead = in_background(numbers(), 3)
    assert next(ahead) == 1
    with pytest.raises(KeyError, match="lost"):
        next(ahead)
