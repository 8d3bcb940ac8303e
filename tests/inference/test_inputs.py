"""What names on the command line stand for: files of raw/, paths, folders, patterns."""

from pathlib import Path

import pytest

from modules.errors import AudioError
from modules.inference.inputs import Named, find_all, find_sources


@pytest.fixture
def raw(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "raw"
    (folder / "album").mkdir(parents=True)
    for name in ("song.wav", "other.flac", "v1.2", "album/one.ogg", ".hidden.wav", "notes.txt"):
        (folder / name).touch()
    (tmp_path / "loose.wav").touch()
    return folder


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("song.wav", "raw/song.wav"),
        ("song", "raw/song.wav"),
        ("other.flac", "raw/other.flac"),
        ("v1.2", "raw/v1.2"),
        ("album/one.ogg", "raw/album/one.ogg"),
        ("raw/song.wav", "raw/song.wav"),
        ("loose.wav", "loose.wav"),
    ],
)
def test_a_name_is_looked_up_in_raw_and_then_as_a_path(raw, name, found):
    assert find_all(name) == ([(name, Path(found))], [])


def test_a_missing_file_is_answered_with_what_there_is(raw):
    with pytest.raises(AudioError, match=r"raw/sonk: no such file\. In raw/: album/one\.ogg, other\.flac, song\.wav\."):
        find_all("sonk")


def test_an_empty_name_is_no_source(raw):
    with pytest.raises(AudioError, match="a name is empty"):
        find_all(" ")


def test_a_folder_stands_for_all_audio_below_it(raw):
    (raw / "album" / "disc 2").mkdir()
    (raw / "album" / "disc 2" / "два.flac").touch()
    (raw / "album" / "cover.png").touch()
    expected = [("album/disc 2/два.flac", raw / "album/disc 2/два.flac"), ("album/one.ogg", raw / "album/one.ogg")]
    for typed in ("album", "raw/album", str(raw / "album"), "album/"):
        assert [(label, path.resolve()) for label, path in find_all(typed)[0]] == expected, typed


def test_a_folder_outside_raw_is_mirrored_under_its_own_name(raw, tmp_path):
    (tmp_path / "live set" / "x").mkdir(parents=True)
    (tmp_path / "live set" / "x" / "a.wav").touch()
    assert find_all(str(tmp_path / "live set"))[0][0][0] == "live set/x/a.wav"
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioError, match="holds no audio"):
        find_all("empty")


@pytest.mark.parametrize(
    ("pattern", "labels"),
    [
        ("*.wav", ["song.wav"]),
        ("**/*.ogg", ["album/one.ogg"]),
        ("album/o??.ogg", ["album/one.ogg"]),
        ("raw/*.flac", ["other.flac"]),
        ("loose*", ["{here}/loose.wav"]),
    ],
)
def test_a_pattern_stands_for_what_matches(raw, tmp_path, pattern, labels):
    assert [label for label, _ in find_all(pattern)[0]] == [label.format(here=tmp_path.name) for label in labels]


def test_a_pattern_without_match_says_so_and_a_file_named_like_one_is_itself(raw):
    with pytest.raises(AudioError, match="matches no audio file"):
        find_all("*.mp3")
    (raw / "take [1].wav").touch()
    assert find_all("take [1].wav")[0] == [("take [1].wav", Path("raw/take [1].wav"))]


def test_an_empty_folder_is_said_to_be_empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AudioError, match="raw/ holds no audio"):
        find_sources(["song.wav"])
    assert (tmp_path / "raw").is_dir(), "users look for the place to put their files"


def test_of_several_names_the_missing_ones_are_reported_and_the_rest_kept_once(raw, caplog):
    found, complete = find_sources(["song", "gone.wav", "loose.wav", "song", "*.wav"])
    assert found == [Named("song", Path("raw/song.wav"), 0), Named("loose.wav", Path("loose.wav"), 2)]
    assert not complete and "gone.wav: no such file" in caplog.text
    assert find_sources(["song"]) == ([Named("song", Path("raw/song.wav"), 0)], True)
