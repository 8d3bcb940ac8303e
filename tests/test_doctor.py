"""doctor.py looks at a workspace: each ruin is one line, nothing else is, and nothing is changed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from damaged_sounds import at_full_scale, clipped
from evaluation.stand_ins import Reader

import doctor
import preprocess_flist_config
from modules.doctor.findings import SECTIONS
from modules.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
VOICE = ROOT / "samples/voices/be_ksenya_f"


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put_clips(folder: Path, *numbers: int) -> Path:
    """Clips of a real voice, of about nine seconds, in a speaker's folder."""
    folder.mkdir(parents=True)
    for number in numbers:
        wav, rate = soundfile.read(VOICE / f"be_ksenya_f_{number:03}.flac")
        soundfile.write(folder / f"be_ksenya_f_{number:03}.wav", wav, rate)
    return folder


def ruin(folder: Path) -> None:
    """One clipped clip, one that is there twice, one that is no audio."""
    wav, rate = soundfile.read(folder / "be_ksenya_f_004.wav", dtype="float32")
    soundfile.write(folder / "be_ksenya_f_004.wav", clipped(at_full_scale(wav), 5), rate)
    shutil.copy(folder / "be_ksenya_f_006.wav", folder / "twice.wav")
    (folder / "broken.wav").write_text("this is not audio")


def look(capsys, *flags) -> tuple[int, str]:
    code = doctor.main(["--num_processes", "1", *flags])
    return code, capsys.readouterr().out


def test_an_empty_workspace_is_told_where_to_begin(workspace, capsys):
    _, said = look(capsys)
    assert "no recordings in dataset_raw yet. Put them in dataset_raw/SPEAKER/" in said
    assert "no clips in dataset/44k yet. Make them with: python resample.py" in said
    assert all(f"\n{section}" in f"\n{said}" for section in SECTIONS)
    assert "Traceback" not in said and not list(workspace.iterdir())


def test_good_recordings_give_nothing_but_facts(workspace, capsys):
    put_clips(workspace / "dataset_raw/alto", *range(1, 10))
    code, said = look(capsys, "recordings")
    (wrong,) = [line for line in said.splitlines() if "warning" in line or "error" in line]
    assert code == 0 and "1.3 min" in wrong and "2 are the least" in wrong


def test_each_ruin_is_a_line_and_the_good_ones_are_not_named(workspace, capsys):
    ruin(put_clips(workspace / "dataset/44k/alto", 1, 2, 4, 5, 6))
    _, said = look(capsys, "clips")
    lines = {word: [line for line in said.splitlines() if word in line] for word in ("_004", "twice", "broken")}
    assert "clipped" in lines["_004"][0] and "broken.wav" in lines["broken"][0] and lines["twice"]
    assert "_005" not in said and "_007" not in said


def test_json_says_the_same_as_the_lines(workspace, capsys):
    ruin(put_clips(workspace / "dataset/44k/alto", 1, 2, 4, 5, 6))
    _, text = look(capsys, "clips", "--json")
    found = json.loads(text)
    kinds = {finding["kind"]: finding for finding in found["findings"]}
    assert kinds["clipping"]["files"] == ["dataset/44k/alto/be_ksenya_f_004.wav"]
    assert found["counts"]["warning"] == sum(finding["level"] == "warning" for finding in found["findings"])
    (speaker,) = found["speakers"]
    assert speaker["files"] == 6 and 0.8 < speaker["minutes"] < 1
    assert sum(speaker["seconds_by_note"].values()) > 10


def test_the_page_stands_alone_and_plays_the_worst_files(workspace, capsys):
    ruin(put_clips(workspace / "dataset/44k/al<to", 1, 4, 6))
    assert look(capsys, "clips", "--html", "doctor.html")[1].endswith("Page: doctor.html\n")
    page = Reader(Path("doctor.html").read_text("utf-8"))
    assert all(address.startswith("data:") for address in page.addresses)
    assert len(page.all("audio")) >= 2 and len(page.all("svg")) == 2 and "al<to" in page.text
    assert "files by length" in page.text and "seconds of each note" in page.text
    look(capsys, "models", "--html", "doctor.html")  # its own page is replaced


def test_a_page_of_somebody_else_is_not_replaced(workspace):
    Path("mine.html").write_text("<p>mine")
    with pytest.raises(UsageError, match="already exists"):
        doctor.main(["environment", "--html", "mine.html"])
    assert Path("mine.html").read_text() == "<p>mine"


def test_nothing_in_the_workspace_is_changed(workspace):
    put_clips(workspace / "dataset_raw/alto", 1, 2)
    put_clips(workspace / "dataset/44k/alto", 1, 2)
    before = {path: path.stat().st_mtime_ns for path in workspace.rglob("*")}
    doctor.main([])
    assert {path: path.stat().st_mtime_ns for path in workspace.rglob("*")} == before


@pytest.mark.parametrize(("flags", "text"), [
    (["recordngs"], "Did you mean recordings?"), (["--num_processes", "-1"], "expected 0 or more"),
    (["recordings", "--in_dir", "gone"], "gone: no such folder"), (["--html", "page.txt"], "ends in .html"),
])  # fmt: skip
def test_mistakes_end_in_one_line(workspace, flags, text):
    done = subprocess.run([sys.executable, ROOT / "doctor.py", *flags], capture_output=True, text=True)
    assert done.returncode == 2 and text in done.stderr and len(done.stderr.splitlines()) == 1


def test_lists_end_with_the_minutes_and_the_worst_finding(workspace, capsys):
    ruin(put_clips(workspace / "dataset/44k/alto", 1, 2, 4, 5, 6))
    assert preprocess_flist_config.main(["--speech_encoder", "whisper-ppg-base"]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("data set: ")]
    assert "0.9 min" in line and "the worst of" in line and line.endswith("All: python doctor.py clips")


def test_a_large_data_set_is_summed_up_from_a_part_which_is_said(workspace, monkeypatch):
    from modules.doctor import sounds

    folder = put_clips(workspace / "dataset/44k/alto", 1, 2, 4, 5, 6)
    monkeypatch.setattr(sounds, "_SUMMED_UP_MINUTES", 0.5)
    clips = {"alto": {path: 600.0 for path in sorted(folder.iterdir())}}
    said = sounds.sum_up(clips)
    assert "data set: 50.0 min" in said and "min of it were measured" in said


def test_what_is_measured_does_not_depend_on_the_workers(workspace):
    from modules.doctor.sounds import clips_in, examine

    ruin(put_clips(workspace / "dataset/44k/alto", 1, 2, 4, 5, 6))
    speakers = clips_in(Path("dataset/44k"))
    alone, pooled = (examine("clips", speakers, workers) for workers in (1, 2))
    assert list(map(str, alone.findings)) == list(map(str, pooled.findings))
    assert list(alone.sounds["alto"]) == list(pooled.sounds["alto"]) == speakers["alto"]
    for path, sound in alone.sounds["alto"].items():
        assert np.isclose(sound.seconds, pooled.sounds["alto"][path].seconds)


def test_of_many_files_the_pitch_of_some_is_found_which_is_said(workspace, monkeypatch):
    from modules.doctor import sounds

    put_clips(workspace / "dataset/44k/alto", 1, 2, 3, 4)
    monkeypatch.setattr(sounds, "_MOST_PITCH_FILES", 2)
    findings = sounds.examine("clips", sounds.clips_in(Path("dataset/44k")), workers=1).findings
    (said,) = [str(finding) for finding in findings if finding.kind == "pitch"]
    assert "in the 0.3 of 0.6 min that were measured" in said
