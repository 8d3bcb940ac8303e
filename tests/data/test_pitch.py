"""The file of pitch histograms: from clips to disk, into checkpoints, and back."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file
from signals import formant_voice

from modules.config.audio import AudioSpec
from modules.data.features import FeatureRecipe
from modules.data.pitch import (
    FILE_NAME,
    histograms_beside,
    read_histograms,
    voice_histograms,
    warn_of_doubt,
    write_histograms,
)
from modules.errors import CheckpointError, DataError
from modules.f0.histogram import PitchHistogram
from modules.f0.voice_range import VoiceRange
from modules.weights.checkpoint import save_weights


def store_pitch(folder: Path, clip: str, hz: list[float], uv: list[float] | None = None) -> Path:
    """A clip's stored pitch; the clip itself is not needed."""
    path = folder / clip
    path.parent.mkdir(parents=True, exist_ok=True)
    curve = np.array([hz, [1.0] * len(hz) if uv is None else uv], np.float32)
    np.save(path.with_name(path.name + ".f0.npy"), curve)
    return path


def of_hz(*hz: float) -> PitchHistogram:
    return PitchHistogram.from_curve(np.array(hz), np.ones(len(hz)))


def test_the_clips_of_a_speaker_add_up(tmp_path):
    clips = [
        store_pitch(tmp_path, "alto/a.wav", [440, 440, 220], [1, 0, 1]),
        store_pitch(tmp_path, "alto/b.wav", [880]),
        store_pitch(tmp_path, "bass ü/c.wav", [110, 110]),
    ]
    write_histograms(tmp_path, clips)
    found = read_histograms(tmp_path / FILE_NAME)
    assert found == {"alto": of_hz(440, 220, 880), "bass ü": of_hz(110, 110)}
    assert list(json.loads((tmp_path / FILE_NAME).read_text("utf-8"))) == ["alto", "bass ü"]
    assert not list(tmp_path.glob(".*"))


def test_clips_without_a_usable_pitch_are_left_out(tmp_path):
    good = store_pitch(tmp_path, "alto/a.wav", [440])
    cut = store_pitch(tmp_path, "alto/cut.wav", [440] * 100)
    file = cut.with_name("cut.wav.f0.npy")
    file.write_bytes(file.read_bytes()[:-50])
    np.save(tmp_path / "alto/odd.wav.f0.npy", np.ones((3, 4), np.float32))
    np.save(tmp_path / "alto/nan.wav.f0.npy", np.full((2, 4), np.nan, np.float32))
    names = ("odd.wav", "nan.wav", "absent.wav")
    write_histograms(tmp_path, [good, cut, *(tmp_path / "alto" / name for name in names), tmp_path / "bass/none.wav"])
    assert read_histograms(tmp_path / FILE_NAME) == {"alto": of_hz(440)}


def test_nothing_voiced_is_an_empty_histogram_and_no_clip_is_nobody(tmp_path):
    write_histograms(tmp_path, [store_pitch(tmp_path, "alto/a.wav", [0, 0], [0, 0])])
    assert read_histograms(tmp_path / FILE_NAME) == {"alto": PitchHistogram()}
    write_histograms(tmp_path, [])
    assert read_histograms(tmp_path / FILE_NAME) == {}


def test_the_file_is_written_only_when_it_changes(tmp_path):
    clips = [store_pitch(tmp_path, "alto/a.wav", [440]), store_pitch(tmp_path, "bass/b.wav", [110])]
    write_histograms(tmp_path, clips)
    path = tmp_path / FILE_NAME
    content, stamp = path.read_bytes(), path.stat().st_mtime_ns
    write_histograms(tmp_path, clips[::-1])
    assert path.read_bytes() == content and path.stat().st_mtime_ns == stamp
    path.write_bytes(b"broken")
    write_histograms(tmp_path, clips)
    assert path.read_bytes() == content


def test_a_missing_file_is_nobody(tmp_path):
    assert read_histograms(tmp_path / "nowhere" / FILE_NAME) == {}


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[1]", b'{"alto": 3}', b'{"alto": {"counts": []}}', b"[" * 100_000]
)
def test_a_damaged_file_is_named_with_the_command_that_makes_it(tmp_path, content):
    path = tmp_path / FILE_NAME
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"f0_histograms\.json.*python preprocess_hubert_f0\.py$"):
        read_histograms(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_or_a_folder_in_its_place_is_named(tmp_path):
    path = tmp_path / FILE_NAME
    os.mkfifo(path)
    with pytest.raises(DataError, match=r"f0_histograms\.json: cannot be read \(is no regular file\)"):
        read_histograms(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=r"f0_histograms\.json: cannot be read \(is a folder"):
        read_histograms(path)


def test_training_clips_find_the_files_of_their_folders(tmp_path):
    first = [store_pitch(tmp_path / "one", "alto/a.wav", [440]), store_pitch(tmp_path / "one", "bass/b.wav", [110])]
    second = [store_pitch(tmp_path / "two", "alto/c.wav", [220])]
    write_histograms(tmp_path / "one", first)
    write_histograms(tmp_path / "two", second)
    elsewhere = [tmp_path / "three/alto/d.wav"]
    assert histograms_beside([*first, *second, *elsewhere], {"alto": 0}) == {"alto": of_hz(440, 220)}
    assert histograms_beside(elsewhere, {"alto": 0}) == {}


def test_a_measured_range_stands_in_for_the_notes_of_a_training_that_are_not_known(tmp_path, caplog):
    caplog.set_level("INFO")
    plain = VoiceRange((41, 81), (45, 75), "2026-12-01", ("pm",), "x").to_plain()
    card = {"f0_histograms": {"alto": of_hz(220.0).to_plain()}, "ranges": {"alto": plain, "tenor": plain}}
    found = voice_histograms(tmp_path / "G_1.pth", tmp_path, card)
    assert found["alto"] == of_hz(220.0), "the training's own come first"
    assert found["tenor"].median == pytest.approx(60, abs=0.5) and "tenor" in caplog.text and "alto" not in caplog.text
    assert list(voice_histograms(tmp_path / "G_1.pth", tmp_path, {"ranges": {"tenor": plain}})) == ["tenor"]


def test_a_model_knows_its_voices_and_the_data_set_is_asked_otherwise(tmp_path):
    write_histograms(tmp_path, [store_pitch(tmp_path, "alto/a.wav", [440])])
    model = {"emb_g.weight": torch.zeros(2, 3)}
    save_weights(tmp_path / "G_1.pth", {"model": model, "f0_histograms": {"bass": of_hz(110).to_plain()}})
    save_weights(tmp_path / "G_2.pth", {"model": model})
    assert voice_histograms(tmp_path / "G_1.pth", tmp_path) == {"bass": of_hz(110)}
    assert voice_histograms(tmp_path / "G_2.pth", tmp_path) == {"alto": of_hz(440)}
    save_file(model, tmp_path / "plain.safetensors")
    assert voice_histograms(tmp_path / "plain.safetensors", tmp_path) == {"alto": of_hz(440)}
    card = {"f0_histograms": {"bass": of_hz(110).to_plain()}}
    save_weights(tmp_path / "G_3.pth", {"model": model, "card": card})
    save_file(model, tmp_path / "with card.safetensors", {"card": json.dumps(card)})
    for name in ("G_3.pth", "with card.safetensors"):
        assert voice_histograms(tmp_path / name, tmp_path) == {"bass": of_hz(110)}
    assert voice_histograms(tmp_path / "G_2.pth", tmp_path / "nowhere") == {}


@pytest.mark.parametrize("stored", [3, {"alto": {}}, {"alto": {**of_hz(110).to_plain(), "counts": [1]}}])
def test_a_checkpoint_with_a_damaged_histogram_is_named_with_the_way_round_it(tmp_path, stored):
    save_weights(tmp_path / "G_1.pth", {"model": {}, "f0_histograms": stored})
    with pytest.raises(CheckpointError, match=r"G_1\.pth.*-t 0"):
        voice_histograms(tmp_path / "G_1.pth", tmp_path)


def test_a_speaker_whose_pitch_the_sound_contradicts_is_named_with_the_command_that_mends_it(tmp_path, caplog):
    """A whistler above the limit in two clips, a voice that is right, and one whose doubt is too short to matter."""
    recipe = FeatureRecipe("fake:1", "fcpe:1", AudioSpec(44100, 2048, 512, 2048, 80, 0.0, 22050.0))
    clips = []
    for name, pitch, stored in [("kras/a", 1400.0, 700.0), ("kras/b", 1400.0, 700.0), ("alto/a", 300.0, 300.0)]:
        clip = store_pitch(tmp_path, f"{name}.wav", [stored] * 43)
        soundfile.write(clip, formant_voice(np.full(22050, pitch), 44100), 44100)
        clips.append(clip)
    warn_of_doubt([*clips, tmp_path / "alto/gone.wav"], recipe)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("kras sings F5 to F5, median F5; in 1.0 s of it notes of up to F6 (1")
    assert said.endswith("Try: python preprocess_hubert_f0.py --f0_predictor pm --f0_max 1500")


def test_a_folder_in_the_place_of_the_histograms_says_what_to_do(tmp_path):
    (tmp_path / "f0_histograms.json").mkdir()
    with pytest.raises(DataError, match=r"json: is a folder, where a file belongs; remove it"):
        write_histograms(tmp_path, [])
