"""Step 1 on awkward folders, recordings and disks: each is named, the others are made."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_resample import ROOT, clips, go, save, tone, warnings_of
from test_resample import workspace as workspace

from modules.data import recordings
from modules.data.recordings import find_recordings, make_clip
from modules.errors import UsageError


def test_links_that_would_give_one_voice_the_takes_of_others_are_said(workspace, caplog):
    for name in ("a/1", "b/2"):
        save(workspace / f"dataset_raw/{name}.wav")
    (workspace / "dataset_raw/a/up").symlink_to("..")
    (workspace / "dataset_raw/c").symlink_to("b")
    assert go() == 0 and clips() == ["a/1.wav", "b/2.wav", "c/2.wav"]
    first, second = warnings_of(caplog)
    assert first == "dataset_raw/a/up: is a link to a folder above, which holds other voices, left out"
    assert second.startswith("dataset_raw/b and dataset_raw/c are one folder")


def test_a_recording_that_changes_while_it_is_read_is_named(workspace, caplog, monkeypatch):
    path = save(workspace / "dataset_raw/s/a.wav")
    measure = recordings._measure

    def grow(file):
        take = measure(file)
        with path.open("ab") as still_recorded:
            still_recorded.write(bytes(1000))
        return take

    monkeypatch.setattr(recordings, "_measure", grow)
    assert go("--num_processes", "1") == 1 and not clips()
    assert "a.wav: has changed while it was read. Run this again" in warnings_of(caplog)[0]
    monkeypatch.setattr(recordings, "_measure", measure)
    assert go() == 0 and clips() == ["s/a.wav"]


def test_an_output_folder_that_may_not_be_written_is_named(workspace, monkeypatch):
    save(workspace / "dataset_raw/s/a.wav")
    (workspace / "dataset/44k").mkdir(parents=True)
    opened = Path.open

    def refuse(path, *how, **options):  # tests may run as root, who may write everywhere
        if path.name == ".lock":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *how, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UsageError, match=r"44k: nothing can be written there \(permission denied\); allow it, or use"):
        go()


def test_an_empty_voice_named_like_a_recording_is_a_voice(workspace, caplog):
    save(workspace / "dataset_raw/s/a.wav")
    (workspace / "dataset_raw/best.wav").mkdir()
    assert go() == 0 and warnings_of(caplog) == ["dataset_raw/best.wav: speaker folder without audio"]


def test_a_click_that_makes_all_else_silence_is_placed(workspace, caplog):
    wav = 0.0001 * np.sin(np.arange(44100) / 20)
    wav[22050] = 1.0
    save(workspace / "dataset_raw/s/a.wav", wav)
    assert go() == 1
    assert (
        "far quieter: if that is a click, cut it out" in warnings_of(caplog)[0] and "at 0.4" in warnings_of(caplog)[0]
    )


def test_clips_without_a_recording_and_empty_speakers_are_mentioned(workspace, caplog):
    save(workspace / "dataset_raw/s/a.wav")
    gone = save(workspace / "dataset_raw/s/b.wav")
    (workspace / "dataset_raw/nobody").mkdir()
    assert go() == 0 and "have no recording" not in caplog.text
    gone.unlink()
    assert go() == 0 and clips() == ["s/a.wav", "s/b.wav"]
    assert "1 clips have no recording any more" in caplog.text and "nobody: speaker folder without" in caplog.text


def test_a_copied_workspace_is_still_ours_and_in_dir_may_be_written_in_full(workspace, capsys):
    save(workspace / "dataset_raw/s/a.wav")
    assert go() == 0
    os.utime("dataset/44k/s/a.wav", (1, 1))
    assert go("--in_dir", str(workspace / "dataset_raw")) == 0
    assert "0 written, 1 unchanged" in capsys.readouterr().out


def test_what_is_unusual_is_told_with_the_file(workspace, caplog):
    left = tone()
    save(workspace / "dataset_raw/s/opposite.wav", np.stack([left, -left], axis=1))
    data = save(workspace / "dataset_raw/s/open.wav").read_bytes()
    (workspace / "dataset_raw/s/open.wav").write_bytes(data[:40] + b"\0\xf0\xff\x7f" + data[44:])
    save(workspace / "dataset_raw/s/plain.wav")
    assert go() == 0 and len(clips()) == 3
    first, second = sorted(warnings_of(caplog))
    assert first.startswith("dataset_raw/s/open.wav: its header does not say how long it is")
    assert second.startswith("dataset_raw/s/opposite.wav: its channels cancel each other")
    wav, _ = soundfile.read("dataset/44k/s/opposite.wav")
    assert np.abs(wav).max() == pytest.approx(1, abs=1e-3) and len(wav) == 44100


@pytest.mark.parametrize("offset", [0.6, -0.05, 0.003])
def test_a_constant_offset_is_taken_out_before_trimming_and_the_peak(workspace, offset):
    still = np.zeros(44100, np.float32)
    wav = np.concatenate([still, tone(level=0.1), still])
    save(workspace / "dataset_raw/s/a.wav", wav + np.float32(offset), subtype="FLOAT")
    save(workspace / "dataset_raw/s/b.wav", wav, subtype="FLOAT")
    assert go() == 0
    moved, plain = (soundfile.read(f"dataset/44k/s/{name}.wav")[0] for name in "ab")
    assert len(moved) == len(plain) < 50_000 and np.allclose(moved, plain, atol=1e-3)


def test_nothing_but_an_offset_is_silent(workspace, caplog):
    save(workspace / "dataset_raw/s/a.wav", np.full(44100, 0.5))
    save(workspace / "dataset_raw/s/b.wav")
    assert go() == 1 and "a.wav: is silent" in caplog.text


def test_a_long_take_is_made_in_pieces_to_the_same_clip_and_told(workspace, caplog, monkeypatch):
    from modules.data import recordings

    rng = np.random.default_rng(4)
    save(workspace / "dataset_raw/s/a.flac", rng.standard_normal(100 * 8000) * 0.1, rate=8000)
    (recording,), _ = find_recordings(Path("dataset_raw"), Path("here"), 44100, True)
    (note,) = make_clip(recording).notes
    assert "becomes one clip of 100 s" in note and "--slice 5-15" in note
    whole = Path("here/s/a.wav").read_bytes()
    monkeypatch.setattr(recordings, "_LONGEST_KEPT", 1)
    make_clip(recording)
    assert Path("here/s/a.wav").read_bytes() == whole


def test_recordings_from_phones_become_clips(workspace):
    import av

    path = workspace / "dataset_raw/s/phone.m4a"
    path.parent.mkdir(parents=True)
    with av.open(str(path), "w", format="ipod") as file:
        track = file.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(2.0)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        for packet in [*track.encode(frame), *track.encode(None)]:
            file.mux(packet)
    path.with_name("no suffix").write_bytes(path.read_bytes())
    assert go() == 0 and clips() == ["s/no suffix.wav", "s/phone.wav"]
    assert soundfile.info("dataset/44k/s/phone.wav").duration == pytest.approx(2, abs=0.05)


def test_files_of_unknown_kind_are_named_and_texts_and_pictures_are_not(workspace, caplog, capsys):
    save(workspace / "dataset_raw/s/a.wav")
    for name, content in {
        "take.xyz": bytes(range(256)) * 9, "songs.zip": b"PK\3\4" + bytes(500), "README": b"the words",
        "Thumbs.db": bytes(9), "cover.jpg": bytes(99), "words.txt": b"la", "take.dat": "wörter".encode() * 2000,
    }.items():  # fmt: skip
        (workspace / "dataset_raw/s" / name).write_bytes(content)
    assert go() == 1 and clips() == ["s/a.wav"]
    lines = warnings_of(caplog)
    assert len(lines) == 2 and all("not an audio file" in line for line in lines)
    assert "songs.zip" in lines[0] and "take.xyz" in lines[1]
    assert "2 skipped" in capsys.readouterr().out


def test_a_folder_that_cannot_be_read_is_named(workspace, caplog, monkeypatch):
    save(workspace / "dataset_raw/s/a.wav")
    locked = save(workspace / "dataset_raw/s/locked/b.wav").parent
    honest = os.scandir

    def scandir(path="."):
        if Path(os.fspath(path)).name == "locked":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return honest(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert go() == 1 and clips() == ["s/a.wav"]
    assert warnings_of(caplog) == ["dataset_raw/s/locked: the folder cannot be read (permission denied)"]
    assert locked.is_dir()


@pytest.mark.skipif(os.name == "nt", reason="no FIFOs there")
def test_a_pipe_a_broken_link_and_a_folder_named_like_a_recording_are_that_items_errors(workspace, caplog):
    save(workspace / "dataset_raw/s/a.wav")
    os.mkfifo(workspace / "dataset_raw/s/pipe.wav")
    os.mkfifo(workspace / "dataset_raw/s/pipe.xyz")
    (workspace / "dataset_raw/s/link.wav").symlink_to("gone.wav")
    (workspace / "dataset_raw/s/folder.wav").mkdir()
    assert go() == 1 and clips() == ["s/a.wav"]
    text = "\n".join(sorted(warnings_of(caplog)))
    for part in (
        "folder.wav: is a folder",
        "link.wav: no such file",
        "pipe.wav: is not a regular file",
        "pipe.xyz: is not a",
    ):
        assert part in text
    assert len(text.splitlines()) == 4


@pytest.mark.skipif(os.name == "nt", reason="such names cannot be made there")
def test_letters_that_file_lists_cannot_hold_are_replaced_or_refused(workspace, caplog):
    save(workspace / "dataset_raw/s/day\\a|b.wav")
    save(workspace / "dataset_raw/t\\u/c.wav")
    assert go() == 1 and clips() == ["s/day_a_b.wav"]
    assert "t/u: its name has a backslash or |" in warnings_of(caplog)[0]


def test_a_folder_of_a_voice_that_may_not_be_written_is_no_matter_of_formats(workspace, caplog, monkeypatch):
    import errno
    import tempfile

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    def fail(*args, **kwargs):
        raise soundfile.LibsndfileError(2, "Error opening 'clip': ")

    save(workspace / "dataset_raw/s/a.wav")
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr("modules.audio.io.soundfile.SoundFile", fail)
    monkeypatch.setattr("modules.data.recordings.MonoFile", lambda path: StillFile(path))
    assert go("--num_processes", "1") == 1
    assert warnings_of(caplog) == [
        "dataset_raw/s/a.wav: the clip cannot be written (the file system cannot be written)"
    ]


class StillFile:
    """A second of a tone."""

    notes, rate, n_samples = (), 44100, 44100

    def __init__(self, path):
        self.path = path

    def blocks(self, seconds):
        yield tone().astype(np.float32)


def test_a_full_disk_is_named_for_each_clip_and_the_rest_goes_on(workspace, caplog, monkeypatch):
    import errno
    import tempfile

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    def write(self, data):
        raise soundfile.LibsndfileError(2)

    save(workspace / "dataset_raw/s/a.wav")
    (recording,), _ = find_recordings(Path("dataset_raw"), Path("here"), 44100, True)
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    monkeypatch.setattr(soundfile.SoundFile, "write", write)
    assert go() == 1
    assert warnings_of(caplog) == ["dataset_raw/s/a.wav: the clip cannot be written (the disk is full)"]
    assert not clips() and not list(Path("dataset").rglob("*.partial*")) and recording.source.exists()


def test_a_second_process_on_the_same_clips_is_refused(workspace):
    save(workspace / "dataset_raw/s/a.wav")
    (workspace / "dataset/44k").mkdir(parents=True)
    imports = "import sys; from pathlib import Path; from modules.files import lock_folder"
    code = f"{imports}\nwith lock_folder(Path(sys.argv[1])): print(); input()"
    command = [sys.executable, "-c", code, str(workspace / "dataset/44k")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(UsageError, match=f"another process .number {other.pid}"):
            go()
        other.communicate(b"\n")
    assert go() == 0
