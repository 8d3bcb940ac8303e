"""From typed names to files and back, and a batch that goes on."""

from pathlib import Path

import pytest
import soundfile
from inference.fake_voice import fake_converter, sung

from modules.errors import AudioError, UsageError
from modules.inference.jobs import Job, check_results_differ, find_source, find_sources, result_name, run_jobs
from modules.inference.options import ConversionOptions

ALTO = ConversionOptions("alto")


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
    assert find_source(name) == Path(found)


def test_a_missing_file_is_answered_with_what_there_is(raw):
    with pytest.raises(AudioError, match=r"raw/sonk: no such file\. In raw/: album/one\.ogg, other\.flac, song\.wav\."):
        find_source("sonk")


@pytest.mark.parametrize(("name", "message"), [("album", "is a folder"), ("", "a name is empty")])
def test_a_folder_or_an_empty_name_is_no_source(raw, name, message):
    with pytest.raises(AudioError, match=message):
        find_source(name)


def test_an_empty_folder_is_said_to_be_empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AudioError, match="raw/ holds no audio"):
        find_sources(["song.wav"])
    assert (tmp_path / "raw").is_dir(), "users look for the place to put their files"


def test_of_several_names_the_missing_ones_are_reported_and_the_rest_kept(raw, caplog):
    assert find_sources(["song", "gone.wav", "loose.wav", "song"]) == {
        "song": Path("raw/song.wav"),
        "loose.wav": Path("loose.wav"),
    }
    assert "gone.wav: no such file" in caplog.text


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("song.wav", ALTO, "song.wav_0key_alto_sovits_pm.flac"),
        ("song", ConversionOptions("nen", transpose=-12, output_format="wav"), "song_-12key_nen_sovits_pm.wav"),
        ("song.wav", ConversionOptions("nen", predict_f0=True), "song.wav_auto_nen_sovits_pm.flac"),
        ("album/one.ogg", ALTO, "album/one.ogg_0key_alto_sovits_pm.flac"),
        ("/somewhere/one.ogg", ALTO, "one.ogg_0key_alto_sovits_pm.flac"),
        ("../one.ogg", ALTO, "one.ogg_0key_alto_sovits_pm.flac"),
        ("песня.wav", ConversionOptions("a/b"), "песня.wav_0key_a_b_sovits_pm.flac"),
    ],
)
def test_results_are_named_as_upstream_names_them(name, options, expected):
    assert result_name(name, options, "pm") == expected


def test_two_sources_with_one_result_are_refused_and_twins_are_merged():
    first = Job.named("/a/song.wav", Path("/a/song.wav"), ALTO, "pm")
    assert check_results_differ([first, first]) == [first]
    with pytest.raises(UsageError, match="would both be written"):
        check_results_differ([first, Job.named("/b/song.wav", Path("/b/song.wav"), ALTO, "pm")])
    again = Job.named("/a/../a/song.wav", Path("/a/../a/song.wav"), ALTO, "pm")
    assert check_results_differ([first, again]) == [first], "the same file by another path"
    with pytest.raises(UsageError, match="one of the sources"):
        check_results_differ([Job(Path("results/x.flac"), Path("results/x.flac"), ALTO)])


def test_a_batch_goes_on_past_a_bad_file(tmp_path, caplog):
    converter, _, _ = fake_converter()
    (tmp_path / "bad.wav").write_bytes(b"RIFFnothing")
    soundfile.write(tmp_path / "good.wav", sung(1, 16000), 16000)
    jobs = [Job(tmp_path / f"{name}.wav", tmp_path / "out" / f"{name}.flac", ALTO) for name in ("bad", "good")]
    assert run_jobs(jobs, converter) == jobs[1:]
    assert "1 of 2 conversions failed" in caplog.text and "bad.wav" in caplog.text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.flac"]
    with pytest.raises(AudioError):
        run_jobs(jobs[:1], converter)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    converter, _, _ = fake_converter()
    (tmp_path / "results").touch()
    soundfile.write(tmp_path / "good.wav", sung(1, 16000), 16000)
    with pytest.raises(UsageError, match="the folder cannot be made"):
        run_jobs([Job(tmp_path / "good.wav", tmp_path / "results" / "good.flac", ALTO)], converter)
