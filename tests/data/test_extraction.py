"""Clips are prepared in the background and finished in batches; one bad clip costs nothing but itself."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from signals import sung

from modules.audio.loudness import frame_volume
from modules.audio.mel import spectrogram, vocoder_mel
from modules.config.audio import AudioSpec
from modules.config.vocoder import PUBLISHED_MEL
from modules.contracts import F0
from modules.data import augmentation, extraction
from modules.data.augmentation import draw
from modules.data.extraction import Extracted, Networks, extract, in_background
from modules.data.features import FeatureRecipe, load, load_diffusion, missing
from modules.f0.base import build_predictor
from modules.files import sha256_of

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


@pytest.fixture
def long_clip(tmp_path, monkeypatch) -> Path:
    """14 s of a tone that glides from 200 to 300 Hz, with a pause of four seconds; 8 s count as long."""
    for module in (augmentation, extraction):
        monkeypatch.setattr(module, "WHOLE_SECONDS", 8.0)
    monkeypatch.setattr(extraction, "_F0_SECONDS", 6.0)
    monkeypatch.setattr(extraction, "_F0_CONTEXT", 1.5)
    path = tmp_path / "alto" / "long.wav"
    path.parent.mkdir(exist_ok=True)
    tone = sung(np.linspace(200, 300, 14 * 44100), 44100)
    tone[5 * 44100 : 9 * 44100] = 0
    soundfile.write(path, tone, 44100)
    return path


def test_a_long_clip_has_the_features_that_it_would_have_in_one_piece(long_clip):
    """Window by window: each frame of a spectrum sees a few hundredths of a second, an F0 predictor a few periods."""
    recipe = FeatureRecipe("fake:1", "dio", AUDIO, mel=PUBLISHED_MEL, seed=3)
    predictor = build_predictor("dio", AUDIO)
    made = extract(long_clip, recipe, BatchEncoder(), predictor)
    assert not made.unvoiced and not missing(long_clip, recipe)
    wav = torch.from_numpy(soundfile.read(long_clip, dtype="float32")[0])
    found, mels = load(long_clip, AUDIO, "fake", True), load_diffusion(long_clip, AUDIO, PUBLISHED_MEL, "fake")
    torch.testing.assert_close(found.spec, spectrogram(wav, AUDIO), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.volume, frame_volume(wav, 512), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(mels.mel, vocoder_mel(wav, PUBLISHED_MEL), rtol=1e-4, atol=1e-4)
    shift, gain = draw(3, sha256_of(long_clip), float(wav.abs().max()))
    changed = vocoder_mel(wav * 10**gain, PUBLISHED_MEL, shift)
    torch.testing.assert_close(mels.aug_mel, changed, rtol=1e-3, atol=1e-3)
    whole = predictor.predict(wav.numpy())
    np.testing.assert_allclose(found.f0, whole.f0, rtol=1e-3)
    assert (found.uv.numpy() != whole.uv).mean() < 1e-3
    pause = found.f0[int(5.5 * 86.2) : int(8.5 * 86.2)]
    assert torch.allclose(pause.diff(), pause.diff().mean(), atol=1e-3), (
        "one straight line from before the pause to behind it"
    )


@pytest.mark.parametrize("batch_seconds", [0.0, 100.0])
def test_a_long_clip_does_not_wait_in_memory(long_clip, clips, batch_seconds):
    encoder = BatchEncoder(fails=lambda wavs: len(wavs) > 1 and max(map(len, wavs)) > 8 * 16000)
    prepared = list(prepare([clips[0], long_clip, clips[1]], ("units", "f0")))
    assert prepared[1][1].wav is None and prepared[1][1].encoder_wav is None
    results = dict(Networks(RECIPE, encoder, Predictor(), batch_seconds).finish(prepared))
    assert sorted(results[long_clip].names) == ["f0", "spec", "units"]
    assert all(not missing(path, RECIPE) for path in results)


def test_a_long_clip_that_fails_alone_is_its_own_error(long_clip, clips):
    encoder = BatchEncoder(fails=lambda wavs: max(map(len, wavs)) > 8 * 16000)
    results = dict(Networks(RECIPE, encoder, Predictor()).finish(prepare([long_clip, clips[0]], ("units",))))
    assert isinstance(results[long_clip], RuntimeError) and not missing(clips[0], RECIPE)


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
