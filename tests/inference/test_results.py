"""No result is ever lost to another request: names, numbers, the journal, other processes."""

import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile
from inference.fake_voice import fake_converter, folder_listing, sung

from modules.errors import AudioError, UserError
from modules.inference.batch import Job, run_jobs
from modules.inference.options import ConversionOptions
from modules.inference.results import JOURNAL, find_result, fold, note_result, read_journal, reserve

ALTO = ConversionOptions("alto")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.wav", "x/a.wav", "y/a.wav"):
        Path(name).parent.mkdir(exist_ok=True)
        soundfile.write(name, sung(1, 16000, len(name)) * (0.5 if "y" in name else 1), 16000)
    return tmp_path


def job(source: str, options: ConversionOptions = ALTO, result: str = "out/a.flac") -> Job:
    return Job(Path(source), Path(result), options)


def run(*jobs: Job, **how) -> list[str]:
    return [done.result.as_posix() for done in run_jobs(list(jobs), fake_converter()[0], **how)]


def test_two_requests_of_one_name_have_a_result_each_and_keep_it(here):
    other = ConversionOptions("alto", loudness_ratio=0)
    assert run(job("a.wav"), job("a.wav", other)) == ["out/a.flac", "out/a_2.flac"]
    before = {name: Path(name).read_bytes() for name in ("out/a.flac", "out/a_2.flac")}
    for how in ({}, {"resume": True}):
        assert run(job("a.wav", other), **how) == ["out/a_2.flac"], "its own is replaced or kept"
        assert run(job("a.wav"), **how) == ["out/a.flac"]
    assert {name: Path(name).read_bytes() for name in before} == before
    assert folder_listing(here / "out") == {"a.flac", "a_2.flac", JOURNAL}


def test_equal_names_in_two_folders_are_both_made(here):
    assert run(job("x/a.wav"), job("y/a.wav")) == ["out/a.flac", "out/a_2.flac"]
    loud, quiet = (np.abs(soundfile.read(name)[0]).max() for name in ("out/a.flac", "out/a_2.flac"))
    assert loud > 1.5 * quiet
    assert run(job("x/a.wav"), job("y/a.wav"), overwrite=True) == ["out/a.flac", "out/a_2.flac"]


def test_overwrite_replaces_what_has_the_name(here):
    run(job("x/a.wav"))
    assert run(job("y/a.wav"), overwrite=True) == ["out/a.flac"]
    assert folder_listing(here / "out") == {"a.flac", JOURNAL}
    assert run(job("y/a.wav"), resume=True) == ["out/a.flac"]
    assert run(job("x/a.wav")) == ["out/a_2.flac"]


def test_a_file_that_nobody_knows_is_kept(here):
    Path("out").mkdir()
    Path("out/a.flac").write_bytes(b"mine")
    assert run(job("a.wav")) == ["out/a_2.flac"]
    assert Path("out/a.flac").read_bytes() == b"mine"


def test_a_source_in_the_place_of_a_result_is_kept(here):
    before = Path("a.wav").read_bytes()
    for overwrite in (False, True):
        assert run(job("a.wav", ConversionOptions("alto", output_format="wav"), "a.wav"), overwrite=overwrite) == [
            "a_2.wav"
        ]
    assert Path("a.wav").read_bytes() == before


@pytest.mark.parametrize(
    ("first", "second"),
    [("Song.flac", "song.flac"), (unicodedata.normalize("NFC", "é.flac"), unicodedata.normalize("NFD", "é.flac"))],
)
def test_names_that_some_disks_take_for_one_count_as_one(here, first, second):
    assert fold(first) == fold(second)
    made = run(job("x/a.wav", result=f"out/{first}"), job("y/a.wav", result=f"out/{second}"))
    assert made == [f"out/{first}", f"out/{Path(second).stem}_2.flac"]
    assert run(job("y/a.wav", result=f"out/{second}"), resume=True) == made[1:]


@pytest.mark.parametrize("content", [b"", b"garbage", b"[" * 100_000, b"[1, 2]", b'"x"', b"\xff\xfe", b'{"a.flac": 3}'])
def test_a_journal_that_is_none_costs_no_result(here, caplog, content):
    caplog.set_level("WARNING")
    run(job("x/a.wav"))
    Path("out", JOURNAL).write_bytes(content)
    assert run(job("y/a.wav"), job("a.wav", result="out/b.flac")) == ["out/a_2.flac", "out/b.flac"]
    assert set(read_journal(Path("out"))) == {"a_2.flac", "b.flac"}
    is_journal = content.startswith(b"{")
    assert len(caplog.records) == (0 if is_journal else 1)
    assert Path("out", f"{JOURNAL}.bak-1").exists() is not is_journal


def test_a_folder_in_the_place_of_the_journal_is_set_aside(here, caplog):
    caplog.set_level("WARNING")
    Path("out", JOURNAL).mkdir(parents=True)
    assert run(job("a.wav")) == ["out/a.flac"]
    assert Path("out", f"{JOURNAL}.bak-1").is_dir() and len(caplog.records) == 1


def test_a_folder_in_the_place_of_a_result_is_that_songs_error(here, caplog):
    Path("out/a.flac").mkdir(parents=True)
    assert run(job("a.wav"), job("x/a.wav", result="out/b.flac")) == ["out/b.flac"]
    assert "out/a.flac: is a folder" in caplog.text and "Traceback" not in caplog.text
    with pytest.raises(AudioError, match="is a folder"):
        run(job("a.wav"))


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), MemoryError(), RecursionError(), PermissionError(13, "no")]
)
def test_whatever_befalls_one_song_the_others_are_sung(here, caplog, error):
    converter, _, _ = fake_converter()
    honest = converter.convert

    def convert(path_in, *args, **options):
        if path_in == Path("x/a.wav"):
            raise error
        return honest(path_in, *args, **options)

    converter.convert = convert
    made = run_jobs([job("x/a.wav"), job("y/a.wav", result="out/b.flac")], converter)
    assert [done.result.name for done in made] == ["b.flac"]
    assert "x/a.wav: " in caplog.text and "1 of 2 conversions failed" in caplog.text
    with pytest.raises(UserError, match=r"x/a\.wav: "):
        run_jobs([job("x/a.wav")], converter)
    assert folder_listing(here / "out") == {"b.flac", JOURNAL}, "no claim is left"


def test_a_song_that_vanishes_is_named(here, caplog):
    jobs = [job("x/a.wav"), job("y/a.wav", result="out/b.flac")]
    Path("x/a.wav").unlink()
    assert run(*jobs) == ["out/b.flac"]
    assert "x/a.wav: no such file" in caplog.text


def test_a_name_that_another_process_works_on_is_taken(here):
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        Path("out").mkdir()
        Path("out/.a.flac.claim").write_text(str(other.pid))
        if os.name != "nt":
            assert run(job("a.wav")) == ["out/a_2.flac"]
    finally:
        other.communicate(b"\n")
    assert run(job("x/a.wav")) == ["out/a.flac"], "that of an ended process is void"
    assert not list(Path("out").glob("*.claim"))


def test_what_another_process_finished_meanwhile_stays(here):
    Path("out").mkdir()
    with reserve(Path("out/a.flac"), "ours") as path:
        path.write_bytes(b"1")
        Path("out/theirs.flac").write_bytes(b"2")
        note_result(Path("out/theirs.flac"), "theirs")
        note_result(path, "ours")
    assert read_journal(Path("out")) == {"a.flac": "ours", "theirs.flac": "theirs"}
    assert find_result(Path("out/a.flac"), "ours") == Path("out/a.flac")
    assert find_result(Path("out/b.flac"), "ours") is None, "the number belongs to the name"


def test_speakers_cannot_leave_the_folder_or_end_a_name():
    from modules.inference.results import result_name

    name = result_name("song", ConversionOptions("../a\0b\nc\\d"), "pm")
    assert name == "song_0key_.._a_b_c_d_sovits_pm.flac"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_name_that_is_no_unicode_is_remembered(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.flac")
    path.touch()
    note_result(path, "ours")
    assert find_result(path, "ours") == path
