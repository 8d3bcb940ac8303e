"""What names on the command line stand for: files of raw/, paths, folders, patterns."""

import contextlib
import os
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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


@pytest.mark.parametrize("name", ["~take.wav", "~nobody/x.wav", "[live] song.wav", "a**.wav", "what?.wav", "-dash.wav"])
def test_a_literal_name_goes_before_what_it_could_mean(raw, name):
    if sys.platform == "win32" and set(name) & set("*?"):
        pytest.skip("Windows has no such names")
    with pytest.raises(AudioError, match=r"no such file|matches no audio"):
        find_all(name)
    (raw / name).parent.mkdir(exist_ok=True)
    (raw / name).touch()
    assert find_all(name)[0] == [(name, Path("raw") / name)]


@pytest.mark.parametrize("name", ["a\0b.wav", "\0", "x" * 5000, "**", "a**b/**c.wav", "[", "song.wav/x", "\ud800"])
def test_whatever_is_typed_is_a_file_or_one_line(raw, name):
    try:
        pairs, problems = find_all(name)
    except AudioError as error:
        assert "\0" not in str(error) and "\n" not in str(error)
    else:
        assert all(path.is_file() for _, path in pairs), problems


@given(st.text(st.sampled_from("ab*?[]!~./\\ \0-'\""), min_size=1, max_size=8))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_name_raises_anything_else(raw, name):
    if not Path(name.replace("\0", "")).is_absolute() and ".." not in name and "~" not in name:
        with contextlib.suppress(AudioError):
            find_all(name)


def test_double_stars_inside_a_name_are_one(raw):
    assert [label for label, _ in find_all("so**.wav")[0]] == ["song.wav"]
    assert [label for label, _ in find_all("**/o*e.**")[0]] == ["album/one.ogg"]


def test_any_suffix_may_be_left_out(raw, caplog):
    caplog.set_level("INFO")
    assert find_all("other")[0] == [("other", Path("raw/other.flac"))]
    assert find_all("album/one")[0] == [("album/one", Path("raw/album/one.ogg"))]
    assert not caplog.text
    (raw / "other.mp3").touch()
    assert find_all("other")[0] == [("other", Path("raw/other.flac"))]
    assert "taking raw/other.flac (there is also other.mp3)" in caplog.text
    (raw / "other.wav").touch()
    assert find_all("other")[0] == [("other", Path("raw/other.wav"))]
    (raw / "v1.3.flac").touch()
    assert find_all("v1.3")[0] == [("v1.3", Path("raw/v1.3.flac"))]
    (raw / "album.flac").touch()
    assert find_all("album")[0] == [("album/one.ogg", Path("raw/album/one.ogg"))], "a folder's own name goes first"


@pytest.mark.skipif(sys.platform == "darwin", reason="both are one name there")
def test_accents_are_found_however_they_are_written(raw):
    written, typed = (unicodedata.normalize(form, "cafe\u0301.flac") for form in ("NFD", "NFC"))
    (raw / written).touch()
    assert find_all(typed)[0] == [(typed, Path("raw") / written)]


def test_a_file_that_two_names_mean_is_there_once_for_each_key(raw):
    names = ["song", "song.wav", "album", "album/one.ogg", "album/one.ogg"]
    found, complete = find_sources(names, keys=[0, 12, 0, 0, "auto"])
    assert complete
    assert [(source.path.name, source.position) for source in found] == [
        ("song.wav", 0),
        ("song.wav", 1),
        ("one.ogg", 2),
        ("one.ogg", 4),
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has neither")
def test_what_a_folder_holds_and_cannot_be_read_is_named(raw, caplog):
    (raw / "album/gone.wav").symlink_to("nowhere.wav")
    os.mkfifo(raw / "album/pipe.wav")
    found, complete = find_sources(["album"])
    assert [source.path.name for source in found] == ["one.ogg"] and not complete
    assert "gone.wav: is a link to nothing" in caplog.text and "pipe.wav: is neither" in caplog.text


def test_an_unreadable_folder_is_named(raw, caplog, monkeypatch):
    def walk(root, onerror):
        onerror(PermissionError(13, "Permission denied", str(Path(root) / "locked")))
        yield str(root), [], ["one.ogg"]

    monkeypatch.setattr(os, "walk", walk)
    found, complete = find_sources(["album"])
    assert len(found) == 1 and not complete and "locked: permission denied" in caplog.text
