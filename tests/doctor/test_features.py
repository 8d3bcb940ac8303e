"""Features that are missing, stale, damaged or doubtful, each made on purpose; and the way that says which."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from doctor_workspaces import (
    CONFIG,
    DATA,
    PITCHES,
    add_features,
    bad,
    by_kind,
    change_config,
    make_workspace,
    recipe,
    the_one,
    write_clip,
)

from modules.config.diffusion import DiffusionConfig, save_diffusion_config
from modules.data.clips import orphans, path_of, sidecar_of
from modules.data.features import AbsentFeatures, StaleFeatures, missing
from modules.data.features import check_features as check_clip
from modules.data.pitch import FILE_NAME
from modules.doctor import features
from modules.doctor.features import check_features
from modules.doctor.findings import Finding
from modules.errors import AudioError, DataError

CLIP = DATA / "alto/1.wav"
COMMAND = "python preprocess_hubert_f0.py --f0_predictor fcpe"


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A workspace that tests copy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("workspace"))
        make_workspace(3)
        return Path.cwd()


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch, original):
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def check() -> list[Finding]:
    found = check_features(CONFIG, DATA, show=False)
    assert all("\x1b" not in str(finding) for finding in found)
    return found


def only(kind: str) -> Finding:
    return the_one(check(), kind)


def change_sidecar(clip: Path, feature: str, **values: object) -> None:
    path = sidecar_of(clip)
    content = json.loads(path.read_text("utf-8"))
    content["features"][feature].update(values)
    path.write_text(json.dumps(content), "utf-8")


def test_a_clean_workspace_is_one_fact():
    (found,) = check()
    assert (found.level, found.kind) == ("info", "features") and "6 clips" in found.text and "fcpe" in found.text


def test_no_features_yet_is_one_fact_with_the_command():
    for path in [*DATA.rglob("*.pt"), *DATA.rglob("*.npy"), *DATA.rglob("*.json")]:
        path.unlink()
    (found,) = check()
    assert found.level == "info" and found.text.startswith("not made yet") and found.remedy == COMMAND


@pytest.mark.parametrize("gone", ["config", "clips", "folder"])
def test_without_config_or_clips_there_is_one_fact(gone):
    if gone == "config":
        CONFIG.unlink()
    else:
        shutil.rmtree(DATA)
        if gone == "clips":
            DATA.mkdir()
    (found,) = check()
    assert found.level == "info" and "python " in found.remedy


@pytest.mark.parametrize("name", ["units", "f0", "spec", "volume", "sidecar"])
def test_a_file_that_is_gone_is_named(name):
    (sidecar_of(CLIP) if name == "sidecar" else path_of(CLIP, name)).unlink()
    found = only("absent")
    assert found.level == "error" and found.files == (CLIP,) and found.remedy == COMMAND and "1 of 6" in found.text


def test_a_clip_that_no_list_has_does_not_stop_a_training():
    write_clip(DATA / "alto/\x1b[31m new.wav", 300.0)
    assert only("absent").level == "warning"
    Path("filelists/val.txt").unlink()
    assert only("absent").level == "error", "nobody knows which are listed"


def test_a_clip_that_has_changed_makes_its_features_stale():
    write_clip(CLIP, 200.0, 0.7)
    found = only("stale")
    assert found.files == (CLIP,) and "has changed since" in found.text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("model", {"speech_encoder": "whisper-ppg-tiny", "ssl_dim": 384}), "whisper-ppg-base, not whisper-ppg-tiny"),
        (("data", {"filter_length": 1024, "win_length": 1024}), "n_fft 2048, win_length 2048, not 1024, 1024"),
        (("data", {"sampling_rate": 32000, "mel_fmax": 16000}), "sampling_rate 44100"),
    ],
)
def test_a_config_that_has_changed_makes_all_stale_and_the_difference_is_named(change, said):
    section, values = change
    change_config(section, **values)
    found = only("stale")
    assert len(found.files) == 6 and said in found.text and found.level == "error"


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "folder", "pipe", "wider", "nan"])
def test_a_file_that_is_damaged_is_named(damage):
    path = path_of(CLIP, "f0")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage in ("empty", "text"):
        path.write_bytes(b"not numbers" * (damage == "text"))
    elif damage in ("wider", "nan"):
        np.save(path, np.full((3 if damage == "wider" else 2, 43), np.nan, np.float32))
    else:
        path.unlink()
        path.mkdir() if damage == "folder" or not hasattr(os, "mkfifo") else os.mkfifo(path)
    found = only("damaged")
    assert found.level == "error" and found.files == (CLIP,)


def test_features_that_somebody_edited_are_named_and_used():
    path = path_of(CLIP, "f0")
    curve = np.load(path)
    curve[0] *= 1.01
    np.save(path, curve)
    found = only("edited")
    assert found.level == "warning" and found.files == (path,) and "1 file" in found.text


def test_a_clip_that_cannot_be_read_is_not_silently_left_out(monkeypatch):
    def is_current(stored: dict, path: Path) -> bool:
        if path == CLIP:
            raise AudioError(f"{path}: cannot be read (permission denied)")
        return True

    monkeypatch.setattr("modules.data.features._is_current", is_current)
    found = only("unreadable")
    assert found.files == (CLIP,) and "permission denied" in found.text
    assert "--tiny --vol_aug --speech_encoder whisper-ppg-base" in found.remedy


def test_what_nobody_thought_of_costs_one_clip(monkeypatch):
    sidecar_of(CLIP).write_text('{"features": {"units": {}, "f0": {"f0_min": "low"}}, "files": []}')
    change_sidecar(DATA / "bass/1.wav", "f0", f0_max="very high")
    found = check()
    assert {finding.kind for finding in found if finding.level == "error"} >= {"absent", "unreadable"}
    assert by_kind(found, "unreadable")[0].files == (DATA / "bass/1.wav",)


def test_units_of_two_files_of_one_encoder_are_a_warning_and_two_predictors_a_fact():
    change_sidecar(CLIP, "units", encoder="whisper-ppg-base:2222")
    assert "2 files" in only("mixed").text
    change_sidecar(CLIP, "units", encoder="whisper-ppg-base:1")
    change_sidecar(CLIP, "f0", predictor="pm")
    assert bad(check()) == []
    assert "fcpe (5), pm (1)" in by_kind(check(), "mixed")[0].text


def test_features_of_clips_that_are_gone_are_a_fact():
    CLIP.unlink()
    found = by_kind(check(), "orphans")[0]
    assert found.level == "info" and found.files == (CLIP,) and orphans(DATA) == [CLIP]


def test_a_pitch_that_the_sound_contradicts_is_a_warning_with_the_command():
    for clip in sorted((DATA / "bass").glob("*.wav")):
        write_clip(clip, 1400.0)
        for path in clip.parent.glob(f"{clip.name}.*"):
            path.unlink()
        add_features(clip, change_config("train"), 700.0)
    found = only("pitch")
    assert found.subject == "bass" and len(found.files) == 3
    assert found.remedy == "python preprocess_hubert_f0.py --f0_predictor pm --f0_max 1500"


def test_of_many_clips_some_are_listened_to_and_it_is_said_how_many(monkeypatch):
    monkeypatch.setattr(features, "_LISTENED", 2)
    (found,) = by_kind(check(), "pitch")
    assert found.level == "info" and "in 4 of 6 clips" in found.text


def test_the_remedy_has_the_flags_that_were_used():
    config = change_config("train")
    for clip in DATA.glob("*/*.wav"):
        add_features(clip, config, PITCHES[clip.parent.name], predictor="harvest", f0_min=40.0, f0_max=2000.0)
    path_of(CLIP, "spec").unlink()
    assert only("absent").remedy == "python preprocess_hubert_f0.py --f0_predictor harvest --f0_min 40 --f0_max 2000"


def test_features_for_the_diffusion_model_are_looked_at_where_there_are_any():
    from modules.config.vocoder import PUBLISHED_MEL

    diffusion = CONFIG.with_name("diffusion.yaml")
    save_diffusion_config(DiffusionConfig(), diffusion)
    assert bad(check()) == []
    add_features(CLIP, change_config("train"), 300.0, mel=PUBLISHED_MEL)
    assert bad(check()) == [], "of one clip, and whole"
    path_of(CLIP, "aug_mel").unlink()
    found = only("absent")
    assert found.files == (CLIP,) and found.remedy == f"{COMMAND} --use_diff" and "aug_mel" in found.text


@pytest.mark.parametrize("content", [None, b"{", b"{}", b'{"alto": 3}'])
def test_notes_that_are_not_counted_are_a_warning(content):
    path = DATA / FILE_NAME
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    found = only("histograms")
    assert found.level == "warning" and found.remedy == COMMAND


def test_checking_a_clip_refuses_what_is_missing_and_allows_other_weights():
    config = change_config("train")
    ours = recipe(config)
    check_clip(CLIP, ours)
    check_clip(CLIP, replace(ours, encoder="whisper-ppg-base:other", predictor="pm", f0_max=2000.0))
    with pytest.raises(StaleFeatures, match="made with the encoder whisper-ppg-base, not vec768l12"):
        check_clip(CLIP, replace(ours, encoder="vec768l12:"))
    path_of(CLIP, "units").write_bytes(b"")
    with pytest.raises(DataError, match=r"soft\.pt: ") as refused:
        check_clip(CLIP, ours)
    assert type(refused.value) is DataError and missing(CLIP, ours) == ["units"]
    path_of(CLIP, "units").unlink()
    with pytest.raises(AbsentFeatures, match=r"soft\.pt: is missing"):
        check_clip(CLIP, ours)
