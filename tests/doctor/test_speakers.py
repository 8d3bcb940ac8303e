"""Another speaker among the clips, with an encoder that hears only the pitch; the published weights are not needed."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from modules.doctor import speakers
from modules.doctor.speakers import find_strangers
from modules.metrics import speaker as metrics

RATE = 16000


class PitchEncoder:
    """Embeds a tone of so many Hz as a point on a circle: 100 Hz is one radian."""

    def embed(self, wav, rate):
        angle = np.abs(np.fft.rfft(wav)).argmax() * rate / len(wav) / 100
        return torch.tensor([np.cos(angle), np.sin(angle), *[0.0] * 254], dtype=torch.float32)


@pytest.fixture(autouse=True)
def encoder(monkeypatch):
    monkeypatch.setattr(metrics, "find_speaker_encoder", lambda: Path("pretrained.pt"))
    monkeypatch.setattr(metrics, "load_speaker_encoder", lambda path, device: PitchEncoder())


def clips(folder: Path, voice: float, count: int, name: str = "own", seconds: float = 8.0) -> list[Path]:
    """Files of tones, alike to 0.98 and more and no two the same."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{name}{index}.wav" for index in range(count)]
    for index, path in enumerate(paths):
        times = np.arange(int(seconds * RATE)) / RATE
        hz = 100 * (voice + 0.2 * index / max(1, count - 1))
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * hz * times), RATE)
    return paths


def look(voices, **options):
    return find_strangers("clips", voices, show=False, **options)


def test_clips_of_one_voice_give_nothing(tmp_path):
    assert look({"alto": clips(tmp_path / "alto", 0.5, 12)}) == []


@pytest.mark.parametrize(("count", "level"), [(1, "warning"), (3, "error")])
def test_strangers_are_named_the_least_alike_first(tmp_path, count, level):
    own, others = clips(tmp_path / "alto", 0.5, 12), clips(tmp_path / "alto", 1.5, count, "other")
    (found,) = look({"alto": sorted(own + others)})
    assert (found.level, found.kind, found.subject) == (level, "speaker", "alto")
    assert found.files == tuple(others[::-1])
    assert f"{count} of {12 + count} clips sound like someone else (worst: other{count - 1}.wav" in found.text


def test_of_two_voices_half_and_half_the_smaller_half_is_named(tmp_path):
    own, others = clips(tmp_path / "alto", 0.5, 7), clips(tmp_path / "alto", 1.5, 6, "other")
    (found,) = look({"alto": own + others})
    assert found.level == "error" and set(found.files) == set(others)


def test_a_stranger_makes_no_two_folders_one_voice(tmp_path):
    own, others = clips(tmp_path / "alto", 0.5, 7), clips(tmp_path / "alto", 1.5, 6, "other")
    found = look({"alto": own + others, "bass": clips(tmp_path / "bass", 1.0, 5)})
    assert [(finding.level, finding.subject) for finding in found] == [("error", "alto")]


def test_a_chain_of_clips_from_low_to_high_is_one_voice(tmp_path):
    folder = tmp_path / "alto"
    paths = [path for step in range(6) for path in clips(folder, 0.3 + 0.4 * step, 3, f"{step}_")]
    assert look({"alto": paths}) == []  # the first and the last have a similarity of -0.5


def test_short_clips_need_not_be_as_much_alike(tmp_path):
    own = clips(tmp_path / "alto", 0.5, 8)
    angle = 0.7 + np.arccos(0.78)  # from the nearest clip
    short = clips(tmp_path / "alto", angle, 1, "short", 2.0)
    long = clips(tmp_path / "alto", angle, 1, "long", 9.0)
    assert look({"alto": own + short}) == []
    assert look({"alto": own + long})[0].files == (long[0],)


def test_what_is_ruined_short_silent_or_damaged_is_not_compared_and_that_is_said(tmp_path):
    own, ruined = clips(tmp_path / "alto", 0.5, 8), clips(tmp_path / "alto", 1.5, 1, "ruined")
    blink = clips(tmp_path / "alto", 1.5, 1, "blink", 1.0)
    silent, broken = tmp_path / "alto/silent.wav", tmp_path / "alto/broken.wav"
    soundfile.write(silent, np.zeros(5 * RATE), RATE)
    broken.write_bytes(b"RIFF")
    (found,) = look({"alto": [*own, *ruined, *blink, silent, broken]}, ruined=set(ruined))
    assert found.level == "info" and found.text.startswith("4 of 12 clips were not compared")


def test_a_voice_of_three_clips_is_left_alone_which_is_said(tmp_path):
    (fact,) = look({"alto": clips(tmp_path / "alto", 0.5, 2) + clips(tmp_path / "alto", 2.0, 1, "other")})
    assert fact.level == "info" and "fewer than 4 clips" in fact.text


def test_two_folders_with_one_voice_are_a_fact(tmp_path):
    voices = {name: clips(tmp_path / name, at, 5) for name, at in (("alto", 0.5), ("bass", 2.5), ("copy", 0.55))}
    (found,) = look(voices)
    assert (found.level, found.subject) == ("info", "alto") and "same voice as copy" in found.text


def test_only_the_first_sound_of_a_long_file_is_embedded(tmp_path, monkeypatch):
    lengths = []
    monkeypatch.setattr(PitchEncoder, "embed", lambda self, wav, rate: lengths.append(len(wav)) or torch.ones(256) / 16)
    paths = clips(tmp_path / "alto", 0.5, 4, seconds=60.0)
    wav, _ = soundfile.read(paths[0])
    soundfile.write(paths[0], np.concatenate([np.zeros(30 * RATE), wav]), RATE)
    assert look({"alto": paths}) == []
    assert lengths == [speakers.MOST_SECONDS * RATE] * 4


def test_of_very_many_files_some_are_taken_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr(speakers, "MOST_FILES", 6)
    own, other = clips(tmp_path / "alto", 0.5, 11), clips(tmp_path / "alto", 1.5, 1, "z")
    (found,) = look({"alto": [*own, *other]})
    assert found.text.startswith("6 of 12 clips were not compared") and found.level == "info"


def test_without_an_encoder_or_with_a_broken_one_the_remedy_is_said(tmp_path, monkeypatch):
    voices = {"alto": clips(tmp_path / "alto", 0.5, 4)}
    monkeypatch.undo()
    monkeypatch.setattr(metrics, "find_speaker_encoder", lambda: None)
    (found,) = look(voices)
    assert (found.level, found.remedy) == ("info", "pip install --no-deps resemblyzer")
    assert "was not looked at" in found.text
    path = tmp_path / "pretrained.pt"
    path.write_bytes(b"no weights")
    monkeypatch.setattr(metrics, "find_speaker_encoder", lambda: path)
    (found,) = look(voices)
    assert found.level == "warning" and "pretrained.pt" in found.text and "--force-reinstall" in found.remedy
