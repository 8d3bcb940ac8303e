"""compare.py: a picture of two songs, which replaces no file that it did not make."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

import compare
from modules.errors import AudioError, UsageError


@pytest.fixture
def songs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    t = np.arange(22050) / 22050
    for name in ("song.wav", "$^{$.wav"):
        soundfile.write(name, 0.5 * np.sin(2 * np.pi * 220 * t), 22050)
    return tmp_path


def go(*words):
    return compare.main([*words, "-f0p", "pm"])


def test_a_name_is_no_formula_and_its_picture_is_made_again(songs, capsys):
    assert go("song.wav", "$^{$.wav") == 0
    assert "Picture: $^{$.png" in capsys.readouterr().out
    assert go("song.wav", "$^{$.wav") == 0 and Path("$^{$.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.filterwarnings("error")
def test_letters_without_a_glyph_are_no_warning(songs):
    Path("song.wav").rename("歌 песня.wav")
    assert go("$^{$.wav", "歌 песня.wav") == 0


def test_pictures_of_others_stay(songs):
    Path("song.png").write_bytes(b"my holiday")
    with pytest.raises(UsageError, match=r"song\.png: already exists.*--overwrite"):
        go("$^{$.wav", "song.wav")
    assert Path("song.png").read_bytes() == b"my holiday"
    assert go("$^{$.wav", "song.wav", "--overwrite") == 0 and Path("song.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("output", ["song.wav", "sub/../song.wav", "picture.jpg"])
def test_no_sound_is_replaced_by_a_picture(songs, output):
    Path("sub").mkdir()
    before = Path("song.wav").read_bytes()
    with pytest.raises(UsageError):
        go("song.wav", "$^{$.wav", "-o", output)
    assert Path("song.wav").read_bytes() == before and len(list(songs.iterdir())) == 3


def test_a_missing_song_is_named(songs):
    with pytest.raises(AudioError, match=r"gone\.wav: no such file"):
        go("song.wav", "gone.wav")


def test_songs_that_are_no_pair_are_said(songs, caplog):
    soundfile.write("short.wav", soundfile.read("song.wav")[0][:11025], 22050)
    assert go("song.wav", "short.wav") == 0
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said.startswith("song.wav and short.wav: one lasts 1.0 s, the other 0.5 s")
    caplog.clear()
    assert go("song.wav", "$^{$.wav") == 0 and not caplog.records
