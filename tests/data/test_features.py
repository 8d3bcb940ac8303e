"""Features are made once, made again exactly where something changed, and never read when they do not fit."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from signals import sung

from modules.audio.mel import spectrogram
from modules.audio.volume import frame_volume
from modules.config.audio import AudioSpec
from modules.contracts import F0
from modules.data import features
from modules.data.extraction import extract
from modules.data.features import COMMAND, FeatureRecipe, load, missing, path_of
from modules.errors import AudioError, DataError

AUDIO = AudioSpec(44100, 2048, 512, 2048, 80, 0.0, 22050.0)
RECIPE = FeatureRecipe("fake:1", "dio", AUDIO, with_volume=True)


class FakeEncoder:
    """Units that say how they were made: (3, T // 320), the first row counting frames."""

    name, dim, sampling_rate, hop_length = "fake", 3, 16000, 320

    def encode(self, wav):
        assert wav.dtype == np.float32
        return torch.arange(len(wav) // 320).float().expand(3, -1)


class FakePredictor:
    name = "dio"

    def predict(self, wav):
        n = len(wav) // 512
        return F0(np.full(n, 220, np.float32), np.ones(n, np.float32))


def make(path, recipe=RECIPE):
    return extract(path, recipe, FakeEncoder(), FakePredictor()).names


@pytest.fixture
def clip(tmp_path) -> Path:
    """One second of a sung tone, 44.1 kHz, with a name that holds dots and a space."""
    path = tmp_path / "alto" / "take 1.a.wav"
    path.parent.mkdir()
    soundfile.write(path, sung(np.full(44100, 220.0), 44100), 44100)
    return path


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
        ({"threshold": 0.1}, ["f0"]),
        ({"f0_max": 900.0}, ["f0"]),
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


def test_a_changed_clip_rebuilds_everything(clip):
    make(clip)
    soundfile.write(clip, sung(np.full(50000, 330.0), 44100), 44100)
    with pytest.raises(DataError, match=f"has changed since .*{COMMAND}"):
        load(clip, AUDIO, "fake")
    assert make(clip) == ["units", "f0", "spec", "volume"]
    assert load(clip, AUDIO, "fake").spec.shape[1] == 97


def test_a_deleted_feature_is_made_again_alone(clip):
    make(clip)
    path_of(clip, "f0").unlink()
    assert make(clip) == ["f0"]


@pytest.mark.parametrize("name", ["units", "f0", "spec", "volume"])
def test_an_interruption_anywhere_leaves_nothing_that_is_believed_wrongly(clip, monkeypatch, name):
    """The old recipe's files are replaced one by one; stop before each, then ask for the old recipe again."""
    make(clip)
    other = FeatureRecipe("fake:2", "pm", dataclasses.replace(AUDIO, hop_length=256), with_volume=True)

    def stop_there(save):
        def guarded(path, value):
            if path == path_of(clip, name):
                raise KeyboardInterrupt
            save(path, value)

        return guarded

    for saver in ("_save_tensor", "_save_array"):
        monkeypatch.setattr(features, saver, stop_there(getattr(features, saver)))
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
    pair = np.empty(2, dtype=object)
    pair[:] = [np.ones(86), np.ones(86)]
    np.save(path_of(clip, "f0"), pair)
    with pytest.raises(DataError, match=rf"f0\.npy: is in so-vits-svc's pickled form.*{COMMAND}"):
        load(clip, AUDIO, "fake")


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
def test_a_feature_that_cannot_be_used_is_named_with_the_command(clip, name, how):
    make(clip)
    break_file(path_of(clip, name), how)
    with pytest.raises(DataError) as caught:
        load(clip, AUDIO, "fake", with_volume=True)
    assert str(path_of(clip, name)) in str(caught.value) and COMMAND in str(caught.value)


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
