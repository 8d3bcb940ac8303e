"""Features are made once, made again exactly where something changed, and never read when they do not fit."""

import dataclasses
import json
import os
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
from modules.data import features
from modules.data.augmentation import draw
from modules.data.extraction import extract
from modules.data.features import COMMAND, DIFFUSION_COMMAND, FeatureRecipe, load, load_diffusion, missing, path_of
from modules.errors import AudioError, DataError
from modules.files import sha256_of

AUDIO = AudioSpec(44100, 2048, 512, 2048, 80, 0.0, 22050.0)
RECIPE = FeatureRecipe("fake:1", "dio", AUDIO, with_volume=True)
DIFFUSION_RECIPE = FeatureRecipe("fake:1", "dio", AUDIO, mel=PUBLISHED_MEL, seed=1234)
AUGMENTED = ("aug_mel", "aug_volume", "aug_shift")


class FakeEncoder:
    """Units that say how they were made: (3, T // 320), the first row counting frames."""

    name, dim, sampling_rate, hop_length = "fake", 3, 16000, 320

    def encode(self, wav):
        assert wav.dtype == np.float32
        return torch.arange(len(wav) // 320).float().expand(3, -1)


class FakePredictor:
    name = "dio"

    def __init__(self, hop_length):
        self.hop_length = hop_length

    def predict(self, wav):
        n = len(wav) // self.hop_length
        return F0(np.full(n, 220, np.float32), np.ones(n, np.float32))


def make(path, recipe=RECIPE):
    return extract(path, recipe, FakeEncoder(), FakePredictor(recipe.audio.hop_length)).names


@pytest.fixture
def clip(tmp_path) -> Path:
    """One second of a sung tone, 44.1 kHz, with a name that holds dots and a space."""
    path = tmp_path / "alto" / "take 1.a.wav"
    path.parent.mkdir()
    soundfile.write(path, sung(np.full(44100, 220.0), 44100), 44100)
    return path


def save_pickled(path: Path, pair: list) -> None:
    """Upstream's old form: an object array of two."""
    array = np.empty(2, dtype=object)
    array[:] = pair
    np.save(path, array)


def stamps(clip: Path) -> dict[str, int]:
    return {name: path_of(clip, name).stat().st_mtime_ns for name in ("units", "f0", "spec", "volume")}


def test_files_have_the_names_and_shapes_that_other_tools_expect(clip):
    assert make(clip) == ["units", "f0", "spec", "volume"]
    folder = clip.parent
    wav = torch.from_numpy(soundfile.read(clip, dtype="float32")[0])
    units = torch.load(folder / "take 1.a.wav.soft.pt", weights_only=True)
    assert units.shape == (1, 3, 50) and units.dtype == torch.float32
    f0 = np.load(folder / "take 1.a.wav.f0.npy", allow_pickle=False)
    assert f0.shape == (2, 86) and f0.dtype == np.float32 and (f0[0] == 220).all() and (f0[1] == 1).all()
    assert torch.load(folder / "take 1.a.spec.pt", weights_only=True).equal(spectrogram(wav, AUDIO))
    volume = np.load(folder / "take 1.a.wav.vol.npy", allow_pickle=False)
    np.testing.assert_array_equal(volume, frame_volume(wav, 512).numpy())
    assert sorted(path.name for path in folder.iterdir()) == [
        "take 1.a.spec.pt",
        "take 1.a.wav",
        "take 1.a.wav.f0.npy",
        "take 1.a.wav.features.json",
        "take 1.a.wav.soft.pt",
        "take 1.a.wav.vol.npy",
    ]
    small = folder / "take 1.a.wav.soft.pt"
    assert small.stat().st_size < 3 * 50 * 4 + 2000, "a view must not drag its whole storage along"


def test_what_was_made_is_loaded_and_nothing_is_made_twice(clip):
    make(clip)
    before = stamps(clip)
    assert missing(clip, RECIPE) == [] and make(clip) == []
    assert extract(clip, RECIPE, None, None).names == [] and stamps(clip) == before
    found = load(clip, AUDIO, "fake", with_volume=True)
    assert found.units.shape == (3, 50) and found.spec.shape == (1025, 86)
    assert found.f0.shape == found.uv.shape == found.volume.shape == (86,)
    assert found.wav.shape == (86 * 512,) and found.wav.dtype == torch.float32
    assert load(clip, AUDIO, "fake").volume is None


@pytest.mark.parametrize(
    "change, rebuilt",
    [
        ({"encoder": "fake:2"}, ["units"]),
        ({"predictor": "pm"}, ["f0"]),
        ({"audio": dataclasses.replace(AUDIO, win_length=1024)}, ["spec"]),
        ({"audio": dataclasses.replace(AUDIO, hop_length=256)}, ["f0", "spec", "volume"]),
        ({"audio": dataclasses.replace(AUDIO, n_mels=64)}, []),
        ({"with_volume": False}, []),
    ],
)
def test_a_changed_setting_rebuilds_exactly_what_depends_on_it(clip, change, rebuilt):
    make(clip)
    recipe = dataclasses.replace(RECIPE, **change)
    assert missing(clip, recipe) == rebuilt
    before = stamps(clip)
    assert make(clip, recipe) == rebuilt
    assert [name for name, stamp in stamps(clip).items() if stamp != before[name]] == rebuilt
    assert missing(clip, recipe) == []


def test_f0_predicted_with_other_settings_is_made_again(clip, monkeypatch):
    make(clip)
    for limit in ({"f0_max": 1600.0}, {"f0_min": 40.0}):
        assert missing(clip, dataclasses.replace(RECIPE, **limit)) == ["f0"]
    monkeypatch.setattr(features, "DEFAULT_THRESHOLD", 0.5)
    assert missing(clip, RECIPE) == ["f0"]


def test_a_changed_clip_rebuilds_everything(clip):
    make(clip)
    soundfile.write(clip, sung(np.full(50000, 330.0), 44100), 44100)
    with pytest.raises(DataError, match=f"has changed since .*{COMMAND}"):
        load(clip, AUDIO, "fake")
    assert make(clip) == ["units", "f0", "spec", "volume"]
    assert load(clip, AUDIO, "fake").spec.shape[1] == 97


def test_a_touched_clip_rebuilds_nothing_and_one_of_the_same_size_everything(clip):
    make(clip)
    content, sidecar = clip.read_bytes(), clip.with_name(clip.name + ".features.json")
    os.utime(clip, (1, 1))
    assert missing(clip, RECIPE) == [], "a copied data set has other times but the same content"
    load(clip, AUDIO, "fake")
    clip.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert len(missing(clip, RECIPE)) == 4
    clip.write_bytes(content)
    stored = json.loads(sidecar.read_text("utf-8"))
    del stored["wav_stat"]
    sidecar.write_text(json.dumps(stored), "utf-8")
    assert missing(clip, RECIPE) == [], "sidecars of earlier versions hold the checksum alone"


def stop_at(stop, monkeypatch):
    """An interruption when the file `stop` is to be written."""
    save = features.write_file

    def guarded(wav_path, name, value):
        if path_of(wav_path, name) == stop:
            raise KeyboardInterrupt
        save(wav_path, name, value)

    monkeypatch.setattr(features, "write_file", guarded)


@pytest.mark.parametrize("name", ["units", "f0", "spec", "volume"])
def test_an_interruption_anywhere_leaves_nothing_that_is_believed_wrongly(clip, monkeypatch, name):
    """The old recipe's files are replaced one by one; stop before each, then ask for the old recipe again."""
    make(clip)
    other = FeatureRecipe("fake:2", "pm", dataclasses.replace(AUDIO, hop_length=256), with_volume=True)

    stop_at(path_of(clip, name), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        make(clip, other)
    monkeypatch.undo()
    assert missing(clip, RECIPE) == ["units", "f0", "spec", "volume"]
    assert missing(clip, other) == ["units", "f0", "spec", "volume"]
    make(clip)
    load(clip, AUDIO, "fake", with_volume=True)


def test_a_damaged_sidecar_means_everything_is_made_again(clip):
    make(clip)
    for text in ("", "[]", '{"features": 3}', '{"features": {"units": 1}}', "\x00"):
        clip.with_name(clip.name + ".features.json").write_text(text, "utf-8")
        assert len(missing(clip, RECIPE)) == 4


def test_upstreams_pickled_f0_is_refused_with_the_command_that_rebuilds(clip):
    make(clip)
    save_pickled(path_of(clip, "f0"), [np.ones(86), np.ones(86)])
    with pytest.raises(DataError, match=rf"f0\.npy: is in so-vits-svc's pickled form.*{COMMAND}"):
        load(clip, AUDIO, "fake")
    assert make(clip) == ["f0"], "the command that is named fixes it"


def test_features_without_a_sidecar_are_refused_and_rebuilt(clip):
    make(clip)
    clip.with_name(clip.name + ".features.json").unlink()
    with pytest.raises(DataError, match="no features yet, or ones made by another tool"):
        load(clip, AUDIO, "fake")
    assert len(make(clip)) == 4


def break_file(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "missing":
        path.unlink()
    elif path.suffix == ".npy":
        array = np.load(path)
        np.save(path, {"nan": array * np.nan, "short": array[..., :-5], "flat": array[..., None]}[how])
    else:
        tensor = torch.load(path, weights_only=True)
        torch.save({"nan": tensor * np.nan, "short": tensor[..., :-5], "flat": tensor[0]}[how], path)


@pytest.mark.parametrize("how", ["truncated", "empty", "missing", "nan", "short", "flat"])
@pytest.mark.parametrize("name", ["units", "f0", "spec", "volume"])
def test_what_training_refuses_is_named_with_the_command_and_preprocessing_makes_it_again(clip, name, how):
    make(clip)
    break_file(path_of(clip, name), how)
    with pytest.raises(DataError) as caught:
        load(clip, AUDIO, "fake", with_volume=True)
    assert str(path_of(clip, name)) in str(caught.value) and COMMAND in str(caught.value)
    if how == "nan":  # seen only when all values are read
        assert "delete it" in str(caught.value)
        path_of(clip, name).unlink()
    assert make(clip) == [name]
    load(clip, AUDIO, "fake", with_volume=True)


def test_lengths_that_differ_a_little_are_cut_to_the_shortest(clip):
    make(clip)
    f0 = np.load(path_of(clip, "f0"))
    np.save(path_of(clip, "f0"), f0[:, :-2])
    found = load(clip, AUDIO, "fake", with_volume=True)
    assert found.f0.shape == found.uv.shape == found.volume.shape == (84,)
    assert found.spec.shape == (1025, 84) and found.wav.shape == (84 * 512,)


def test_a_config_that_does_not_fit_the_features_is_told_so(clip):
    make(clip)
    with pytest.raises(DataError, match=r"soft\.pt: is stale: made with the encoder fake, not other"):
        load(clip, AUDIO, "other")
    with pytest.raises(DataError, match=r"f0\.npy: is stale: made with hop_length 512, not 256"):
        load(clip, dataclasses.replace(AUDIO, hop_length=256), "fake")
    make(clip, dataclasses.replace(RECIPE, encoder="fake:3"))
    load(clip, AUDIO, "fake")


def test_a_clip_of_another_rate_says_run_resample(clip):
    soundfile.write(clip, sung(np.full(22050, 220.0), 22050), 22050)
    with pytest.raises(DataError, match=r"has 22050 Hz.*44100.*python resample\.py --sr2 44100"):
        make(clip)


@pytest.mark.parametrize("n_samples", [1, 700])
def test_a_clip_too_short_for_a_spectrum_is_named(clip, n_samples):
    soundfile.write(clip, np.full(n_samples, 0.1), 44100)
    with pytest.raises(AudioError, match=r"take 1\.a\.wav: .* too short"):
        make(clip)


def test_the_sidecar_is_json_that_a_person_can_read(clip):
    make(clip)
    stored = json.loads(clip.with_name(clip.name + ".features.json").read_text("utf-8"))
    assert stored["features"]["f0"]["predictor"] == "dio" and stored["features"]["units"]["encoder"] == "fake:1"
    assert len(stored["wav_sha256"]) == 64


def test_diffusion_features_are_plain_arrays_in_upstreams_layout(clip):
    assert make(clip, DIFFUSION_RECIPE) == ["units", "f0", "spec", "volume", "mel", "augmented"]
    wav = torch.from_numpy(soundfile.read(clip, dtype="float32")[0])
    shapes = {"mel": (86, 128), "aug_mel": (86, 128), "aug_vol": (86,), "aug_shift": (1,), "vol": (86,)}
    stored = {name: np.load(f"{clip}.{name}.npy", allow_pickle=False) for name in shapes}
    assert {name: array.shape for name, array in stored.items()} == shapes
    assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in stored.values())
    np.testing.assert_array_equal(stored["mel"], vocoder_mel(wav, PUBLISHED_MEL).T.numpy())
    np.testing.assert_array_equal(stored["vol"], frame_volume(wav, 512).numpy())
    # One gain and one key shift lie behind both augmented files.
    shift, gain = draw(1234, sha256_of(clip), float(wav.abs().max()))
    assert stored["aug_shift"][0] == shift
    np.testing.assert_array_equal(stored["aug_mel"], vocoder_mel(wav * 10.0**gain, PUBLISHED_MEL, shift).T.numpy())
    np.testing.assert_allclose(stored["aug_vol"], stored["vol"] * 10**gain, rtol=1e-5)


def test_diffusion_features_are_loaded_without_the_samples(clip, monkeypatch):
    make(clip, DIFFUSION_RECIPE)
    monkeypatch.setattr(features, "read", lambda path: pytest.fail("the samples were read"))
    found = load_diffusion(clip, AUDIO, PUBLISHED_MEL, "fake")
    assert found.units.shape == (3, 50) and found.f0.shape == found.volume.shape == found.aug_volume.shape == (86,)
    assert found.mel.shape == found.aug_mel.shape == (128, 86) and found.mel.dtype == torch.float32
    assert -5 <= found.aug_shift <= 5 and found.aug_shift == np.load(path_of(clip, "aug_shift"))[0]
    path_of(clip, "aug_mel").unlink()
    path_of(clip, "spec").unlink()
    plain = load_diffusion(clip, AUDIO, PUBLISHED_MEL, "fake", with_augmented=False)
    assert plain.aug_mel is plain.aug_volume is None and plain.aug_shift == 0 and torch.equal(plain.mel, found.mel)


def test_diffusion_features_are_cut_to_the_same_frames(clip):
    make(clip, DIFFUSION_RECIPE)
    np.save(path_of(clip, "aug_volume"), np.load(path_of(clip, "aug_volume"))[:-2])
    found = load_diffusion(clip, AUDIO, PUBLISHED_MEL, "fake")
    assert {len(found.f0), len(found.volume), len(found.aug_volume)} == {84}
    assert found.mel.shape == found.aug_mel.shape == (128, 84)


def test_each_run_leaves_the_features_of_the_other_alone(clip):
    make(clip, DIFFUSION_RECIPE)
    plain = dataclasses.replace(DIFFUSION_RECIPE, mel=None)
    assert missing(clip, plain) == []
    assert make(clip, dataclasses.replace(plain, predictor="pm")) == ["f0"]
    assert missing(clip, DIFFUSION_RECIPE) == ["f0"]
    assert make(clip, DIFFUSION_RECIPE) == ["f0"] and missing(clip, plain) == []


def test_diffusion_features_are_added_to_what_is_there(clip):
    make(clip, dataclasses.replace(DIFFUSION_RECIPE, mel=None))
    assert make(clip, DIFFUSION_RECIPE) == ["volume", "mel", "augmented"]
    load(clip, AUDIO, "fake", with_volume=True)


@pytest.mark.parametrize("name", AUGMENTED)
def test_the_augmented_files_are_made_again_together_and_alike(clip, name):
    make(clip, DIFFUSION_RECIPE)
    before = {part: path_of(clip, part).read_bytes() for part in AUGMENTED}
    for part in AUGMENTED:
        np.save(path_of(clip, part), np.full(np.load(path_of(clip, part)).shape, 3.0, np.float32))
    path_of(clip, name).unlink()
    assert make(clip, DIFFUSION_RECIPE) == ["augmented"]
    assert {part: path_of(clip, part).read_bytes() for part in AUGMENTED} == before


@pytest.mark.parametrize("name", AUGMENTED)
def test_an_interruption_between_augmented_files_leaves_no_mixed_pair(clip, monkeypatch, name):
    make(clip, DIFFUSION_RECIPE)
    other = dataclasses.replace(DIFFUSION_RECIPE, seed=5)
    stop_at(path_of(clip, name), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        make(clip, other)
    monkeypatch.undo()
    assert missing(clip, DIFFUSION_RECIPE) == missing(clip, other) == ["augmented"]


@pytest.mark.parametrize(
    "change, rebuilt",
    [
        ({"seed": 5}, ["augmented"]),
        ({"mel": dataclasses.replace(PUBLISHED_MEL, n_mels=80)}, ["mel", "augmented"]),
        ({"mel": dataclasses.replace(PUBLISHED_MEL, fmax=12000)}, ["mel", "augmented"]),
        ({"mel": dataclasses.replace(PUBLISHED_MEL, fmin=40.0)}, []),
        ({"predictor": "pm"}, ["f0"]),
    ],
)
def test_diffusion_features_depend_on_the_vocoders_mel_and_the_seed(clip, change, rebuilt):
    make(clip, DIFFUSION_RECIPE)
    assert missing(clip, dataclasses.replace(DIFFUSION_RECIPE, **change)) == rebuilt


def test_features_for_another_vocoder_are_refused_with_both(clip):
    make(clip, DIFFUSION_RECIPE)
    other = dataclasses.replace(PUBLISHED_MEL, n_mels=80, fmin=0)
    text = rf"wav\.mel\.npy: is stale: made for a vocoder with n_mels 128, fmin 40, not 80, 0\. .*{DIFFUSION_COMMAND}"
    with pytest.raises(DataError, match=text):
        load_diffusion(clip, AUDIO, other, "fake")


def test_upstreams_pickled_augmentation_is_refused_and_made_again(clip):
    make(clip, DIFFUSION_RECIPE)
    save_pickled(path_of(clip, "aug_mel"), [np.ones((86, 128), np.float32), 2.5])
    with pytest.raises(DataError, match=rf"aug_mel\.npy: is in so-vits-svc's pickled form.*{DIFFUSION_COMMAND}"):
        load_diffusion(clip, AUDIO, PUBLISHED_MEL, "fake")
    assert make(clip, DIFFUSION_RECIPE) == ["augmented"]
    load_diffusion(clip, AUDIO, PUBLISHED_MEL, "fake")


@pytest.mark.parametrize("how", ["truncated", "empty", "missing", "nan", "flat"])
@pytest.mark.parametrize("name", ["units", "f0", "volume", "mel", *AUGMENTED])
def test_a_diffusion_feature_that_cannot_be_used_is_named_with_the_command(clip, name, how):
    make(clip, DIFFUSION_RECIPE)
    break_file(path_of(clip, name), how)
    with pytest.raises(DataError) as caught:
        load_diffusion(clip, AUDIO, PUBLISHED_MEL, "fake")
    assert str(path_of(clip, name)) in str(caught.value) and DIFFUSION_COMMAND in str(caught.value)


def test_clips_without_diffusion_features_say_how_to_make_them(clip):
    with pytest.raises(DataError, match=f"no features yet.*{DIFFUSION_COMMAND}"):
        load_diffusion(clip, AUDIO, PUBLISHED_MEL, "fake")
    make(clip)
    with pytest.raises(DataError, match=rf"take 1\.a\.wav\.mel\.npy: is missing.*{DIFFUSION_COMMAND}"):
        load_diffusion(clip, AUDIO, PUBLISHED_MEL, "fake")


def test_a_silent_clip_has_diffusion_features(clip):
    soundfile.write(clip, np.zeros(44100), 44100)
    make(clip, DIFFUSION_RECIPE)
    found = load_diffusion(clip, AUDIO, PUBLISHED_MEL, "fake")
    assert not found.volume.any() and not found.aug_volume.any()
