"""Songs at the evaluations of a training: features once, nothing learned otherwise, no failure that ends it."""

import logging

import numpy as np
import pytest
import soundfile
import torch
from inference.fake_voice import sung
from tiny_training import SMALL_DECODER, Run, weights
from tiny_voices import FakeEncoder, FakePredictor, make_workspace

import train
from models import Voice
from modules.errors import AudioError, UserError
from modules.evaluation.preview import Preview, PreviewRequest
from modules.f0.histogram import PitchHistogram


class CountingEncoder(FakeEncoder):
    n_calls = 0

    def encode(self, wav):
        type(self).n_calls += 1
        return super().encode(wav)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A workspace to train in, with two songs of one name."""
    monkeypatch.chdir(tmp_path)
    for index, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "song.wav", sung(0.4, 16000, index), 16000)
    CountingEncoder.n_calls = 0
    return make_workspace(tmp_path, 2, model=SMALL_DECODER)


def make_preview(run: Run, config, folder, *names: str, key: int | str = 0, card=None) -> Preview:
    request = PreviewRequest(tuple(folder / name / "song.wav" for name in names), 1.0, "bass", key)
    parts = lambda *_, **__: CountingEncoder(), lambda *_, **__: FakePredictor()
    return Preview(request, config, card or {}, Voice(run.step.voice), torch.device("cpu"), *parts)


def test_songs_are_sung_at_each_evaluation_and_what_is_learned_stays_the_same(workspace, tmp_path):
    plain = Run(workspace, tmp_path / "logs/plain")
    plain(2)
    workspace.train.eval_interval = 1
    run = Run(workspace, tmp_path / "logs/sung")
    run.monitor.preview, run.monitor.clips = make_preview(run, workspace, tmp_path, "a", "b"), []
    run(2)
    files = sorted(path.name for path in (tmp_path / "logs/sung/preview").iterdir())
    assert files == sorted(f"{step}_{name}.flac" for step in (1, 2) for name in ("song", "song_2"))
    assert CountingEncoder.n_calls == 2, "once for each song, before the first step"
    first, last = (soundfile.read(tmp_path / f"logs/sung/preview/{step}_song.flac")[0] for step in (1, 2))
    assert len(first) == round(0.4 * 44100) and not np.array_equal(first, last), "the weights of that step sing"
    assert all(torch.equal(value, weights(plain)[name]) for name, value in weights(run).items())


def test_a_preview_that_fails_is_a_warning_and_one_song_has_the_name_of_the_step(workspace, tmp_path, caplog):
    workspace.train.eval_interval = 1
    run = Run(workspace, tmp_path / "logs/a")
    run.monitor.preview, run.monitor.clips = make_preview(run, workspace, tmp_path, "a"), []
    (tmp_path / "logs/a/preview/1.flac").mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        run(2)
    assert "no preview of song at step 1" in caplog.text and run.state.step == 2
    assert (tmp_path / "logs/a/preview/2.flac").is_file()


def test_the_key_is_what_suits_the_speaker_where_its_notes_are_known(workspace, tmp_path):
    run = Run(workspace, tmp_path / "logs/a")
    octave_down = PitchHistogram.from_curve(np.full(500, 110.0), np.ones(500)).to_plain()  # the song is at 220 Hz
    preview = make_preview(run, workspace, tmp_path, "a", key="auto", card={"f0_histograms": {"bass": octave_down}})
    assert preview._songs[0][2].transpose == -12
    assert make_preview(run, workspace, tmp_path, "a", key="auto")._songs[0][2].transpose == 0


def test_a_song_that_cannot_be_read_ends_it_before_the_training(workspace, tmp_path):
    (tmp_path / "a/song.wav").write_bytes(b"RIFF")
    with pytest.raises(AudioError, match=r"song\.wav"):
        make_preview(Run(workspace, tmp_path / "logs/a"), workspace, tmp_path, "a")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--preview", "gone.wav"], "gone.wav: no such file"),
        (["--preview", "a/song.wav", "--preview", "filelists/val.txt"], "val.txt"),
        (["--preview", "a/song.wav", "--preview_speaker", "soprano"], "the config's speakers are alto, bass"),
        (["--preview", "a/song.wav", "--preview_seconds", "0"], "--preview_seconds 0: expected 1 to 300"),
        (["--preview", "a/song.wav", "--preview_trans", "99"], "--preview_trans 99: expected -60 to 60"),
        (["--preview_speaker", "alto"], "--preview_speaker goes with --preview SONG"),
    ],
)
def test_what_cannot_be_sung_is_refused_before_anything_is_loaded(workspace, flags, reason, monkeypatch):
    monkeypatch.setattr("modules.pretrained.needs.require_parts", lambda *names: None)
    with pytest.raises(UserError, match=reason):
        train.main(["-c", "configs/config.json", "-m", "44k", "-d", "cpu", *flags])
