"""resample.py on good, bad and hostile input: every clip right, every problem named, nothing lost."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

import resample
from modules.audio.io import to_int16
from modules.data.recordings import find_recordings, make_clip
from modules.errors import DataError, UsageError

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "goldens" / "rule" / "resample_py.npz"


def tone(seconds=1.0, rate=44100, level=0.5):
    return (level * np.sin(2 * np.pi * 220 * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def save(path, wav=None, rate=44100, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(rate=rate) if wav is None else wav, rate, **options)
    return path


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def go(*flags):
    return resample.main(["--num_processes", "1", *flags])


def clips():
    return sorted(path.relative_to("dataset/44k").as_posix() for path in Path("dataset/44k").rglob("*.wav"))


def warnings_of(caplog):
    return [record.getMessage().replace("\\", "/") for record in caplog.records if record.levelname == "WARNING"]


def test_the_signal_path_equals_the_golden(workspace):
    golden = np.load(GOLDEN)
    save(workspace / "dataset_raw/s/a.wav", golden["in_wav_int16"], int(golden["in_sr"]))
    assert go() == 0
    found, _ = soundfile.read("dataset/44k/s/a.wav", dtype="int16")
    assert len(found) == len(golden["out_int16"])
    # The golden truncates towards zero, we round: at most one step apart.
    assert np.abs(found.astype(int) - golden["out_int16"]).max() <= 1


@pytest.mark.parametrize(("name", "rate", "options"), [
    ("a.wav", 8000, {"subtype": "PCM_U8"}), ("a.WAV", 192000, {"subtype": "DOUBLE"}),
    ("a.wav", 96000, {"subtype": "PCM_24"}),
    ("a.flac", 22050, {}), ("a.ogg", 44100, {}), ("a.Opus", 48000, {"format": "OGG", "subtype": "OPUS"}),
    ("a.mp3", 44100, {}), ("a.AIFF", 32000, {}), ("a.au", 16000, {}), ("a.caf", 44100, {"subtype": "FLOAT"}),
    ("ключ и 音 (1).wav", 44100, {"format": "WAVEX"}),
])  # fmt: skip
def test_every_format_rate_and_depth_gives_a_clip(workspace, name, rate, options):
    stereo = np.stack([tone(rate=rate), tone(rate=rate) * 0.5], axis=1)
    save(workspace / "dataset_raw/голос one" / name, stereo, rate, **options)
    assert go() == 0
    wav, found = soundfile.read(Path("dataset/44k/голос one") / Path(name).with_suffix(".wav"))
    assert found == 44100 and wav.ndim == 1 and np.abs(wav).max() == pytest.approx(1, abs=1e-3)
    assert len(wav) == pytest.approx(44100, abs=1500)


def broken_files(folder):
    """Name to (words of the reason) of files that cannot become clips, written below `folder`."""
    folder.mkdir(parents=True)
    save(folder / "silent.wav", np.zeros(44100))
    save(folder / "nearly silent.wav", np.full(44100, 3 / 32768))
    save(folder / "no samples.wav", np.zeros(0))
    (folder / "no bytes.wav").touch()
    (folder / "text.wav").write_text("this is not audio " * 100)
    (folder / "picture.flac").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(500))
    save(folder / "short.wav", tone(0.29))
    save(folder / "short inside.wav", np.concatenate([np.zeros(44100), tone(0.1), np.zeros(44100)]))
    not_a_number = tone()
    not_a_number[22050] = np.nan
    save(folder / "nan.wav", not_a_number, subtype="FLOAT")
    not_a_number[22050] = np.inf
    save(folder / "inf.wav", not_a_number, subtype="FLOAT")
    noise = np.random.default_rng(0).standard_normal(3 * 44100) * 0.1
    for suffix in ("wav", "flac", "ogg", "mp3", "aiff"):
        path = save(folder / f"cut.{suffix}", noise)
        whole = path.read_bytes()
        path.unlink()
        (folder / f"cut {suffix}.{suffix}").write_bytes(whole[: len(whole) // 2])
    (folder / "phone.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(500))
    return {
        "silent.wav": "is silent", "nearly silent.wav": "is silent", "no samples.wav": "holds no samples",
        "no bytes.wav": "0 bytes", "text.wav": "not an audio file", "picture.flac": "not an audio file",
        "short.wav": "shorter than 0.3 s (0.29", "short inside.wav": "without the silence at its ends",
        "nan.wav": "not numbers (NaN or infinity), the first at 0.50 s", "inf.wav": "not numbers",
        "cut wav.wav": "truncated", "cut flac.flac": "truncated", "cut ogg.ogg": "truncated",
        "cut mp3.mp3": "truncated", "cut aiff.aiff": "truncated", "phone.m4a": "not an audio file",
    }  # fmt: skip


def test_bad_files_are_named_with_the_reason_and_the_good_ones_are_made(workspace, caplog, capsys):
    reasons = broken_files(workspace / "dataset_raw/alto")
    save(workspace / "dataset_raw/alto/good.wav")
    save(workspace / "dataset_raw/zulu/good.wav")
    with caplog.at_level("WARNING"):
        assert go() == 1
    assert clips() == ["alto/good.wav", "zulu/good.wav"]
    lines = [record.getMessage() for record in caplog.records]
    for name, reason in reasons.items():
        (line,) = [line for line in lines if f"alto/{name}:" in line.replace("\\", "/")]
        assert reason in line and "\n" not in line and "Traceback" not in line
    assert f"2 written, 0 unchanged, 0 kept, {len(reasons)} skipped" in capsys.readouterr().out


def test_other_files_loose_audio_and_hidden_ones_are_left_alone(workspace, caplog):
    save(workspace / "dataset_raw/alto/a.wav")
    save(workspace / "dataset_raw/loose.wav")
    for name in ("alto/takes.tsv", "alto/.DS_Store", "alto/._a.wav", "notes.txt"):
        (workspace / "dataset_raw" / name).write_text("x")
    with caplog.at_level("INFO"):
        assert go() == 0
    assert clips() == ["alto/a.wav"]
    assert "loose.wav: lies outside any speaker folder" in caplog.text and "2 files that are not audio" in caplog.text


def test_sub_folders_are_flattened_into_the_speakers_folder(workspace):
    save(workspace / "dataset_raw/alto/day 1/warm/a.wav")
    save(workspace / "dataset_raw/alto/day 2/a.flac")
    assert go() == 0
    assert clips() == ["alto/day 1_warm_a.wav", "alto/day 2_a.wav"]


@pytest.mark.parametrize(("first", "second"), [("a.wav", "a.flac"), ("x/a.wav", "x_a.wav"), ("a.wav", "A.ogg")])
def test_two_sources_for_one_clip_are_refused_before_anything_is_written(workspace, first, second):
    save(workspace / "dataset_raw/alto" / first)
    save(workspace / "dataset_raw/alto" / second)
    save(workspace / "dataset_raw/aaa/fine.wav")
    with pytest.raises(DataError, match="would both become"):
        go()
    assert not (workspace / "dataset").exists()


@pytest.mark.parametrize("make", ["nothing", "empty", "no audio"])
def test_nothing_to_do_says_what_is_expected(workspace, make):
    if make != "nothing":
        (workspace / "dataset_raw/alto").mkdir(parents=True)
    if make == "no audio":
        (workspace / "dataset_raw/alto/a.txt").write_text("x")
    with pytest.raises(DataError, match=r"Expected dataset_raw/SPEAKER/recording\.wav"):
        go()


def test_a_rate_no_model_has_is_refused(workspace):
    with pytest.raises(UsageError, match="--sr2 0"):
        go("--sr2", "0")


def test_loud_input_neither_wraps_nor_clips_and_the_level_can_stay(workspace):
    save(workspace / "dataset_raw/s/hot.wav", tone(level=3.0), subtype="FLOAT")
    save(workspace / "dataset_raw/s/soft.wav", tone(level=0.25), subtype="FLOAT")
    assert go("--skip_loudnorm") == 0
    hot, soft = (soundfile.read(f"dataset/44k/s/{name}.wav")[0] for name in ("hot", "soft"))
    assert np.abs(hot).max() == pytest.approx(0.98, abs=0.01) and np.abs(np.diff(hot)).max() < 0.1
    assert np.abs(soft).max() == pytest.approx(0.25, abs=0.01)


def test_int16_is_rounded_without_bias_and_clipped_without_wrapping():
    assert to_int16(np.array([0.6, -0.6, 1.4]) / 32767).tolist() == [1, -1, 1]
    assert to_int16(np.array([2.0, -2.0, 1.0, -1.0])).tolist() == [32767, -32768, 32767, -32767]


def test_a_second_run_makes_only_what_changed(workspace, capsys):
    for name in ("a", "b", "c"):
        save(workspace / f"dataset_raw/s/{name}.wav")
    assert go() == 0
    times = {path: path.stat().st_mtime_ns for path in Path("dataset/44k/s").glob("*.wav")}
    assert go() == 0
    assert "0 written, 3 unchanged" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in times} == times
    save(workspace / "dataset_raw/s/b.wav", tone(2.0))
    Path("dataset/44k/s/c.wav").unlink()
    assert go() == 0
    assert "2 written, 1 unchanged" in capsys.readouterr().out
    assert soundfile.info("dataset/44k/s/b.wav").duration == pytest.approx(2, abs=0.05)
    assert go("--skip_loudnorm") == 0
    assert "3 written" in capsys.readouterr().out, "other settings make other clips"
    assert go("--skip_loudnorm", "--overwrite") == 0
    assert "3 written" in capsys.readouterr().out


def test_a_file_that_somebody_else_wrote_stays_unless_the_flag_says_so(workspace, capsys, caplog):
    save(workspace / "dataset_raw/s/a.wav")
    save(workspace / "dataset/44k/s/a.wav", tone(5.0))
    assert go() == 0
    assert "0 written, 0 unchanged, 1 kept" in capsys.readouterr().out and "--overwrite" in caplog.text
    assert soundfile.info("dataset/44k/s/a.wav").duration == 5
    assert go("--overwrite") == 0
    assert soundfile.info("dataset/44k/s/a.wav").duration == pytest.approx(1, abs=0.05)


def test_a_damaged_manifest_is_one_line(workspace):
    save(workspace / "dataset_raw/s/a.wav")
    assert go() == 0
    Path("dataset/44k/.resample.json").write_text("{")
    with pytest.raises(DataError, match=r"\.resample\.json: damaged"):
        go()


def test_a_file_that_cannot_be_opened_is_named(workspace, caplog):
    path = save(workspace / "dataset_raw/s/a.wav")
    save(workspace / "dataset_raw/s/b.wav")
    path.unlink()
    path.symlink_to(workspace / "gone.wav")
    assert go() == 1 and "a.wav: no such file" in caplog.text and clips() == ["s/b.wav"]


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_a_kill_at_any_moment_leaves_whole_clips_and_the_next_run_goes_on(workspace):
    rng = np.random.default_rng(1)
    for index in range(12):
        save(workspace / f"dataset_raw/s/{index:02}.wav", rng.standard_normal(8 * 44100) * 0.1)
    command = [sys.executable, str(ROOT / "resample.py"), "--num_processes", "2"]
    for delay in (0.3, 0.5, 0.7):
        script = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        time.sleep(delay)
        os.killpg(script.pid, 9)
        script.communicate()
        for path in Path("dataset").rglob("[!.]*.wav"):
            assert soundfile.info(path).frames == 8 * 44100
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(clips()) == 12 and not list(Path("dataset").rglob("*.partial*"))
    entries = json.loads(Path("dataset/44k/.resample.json").read_text("utf-8"))
    assert len(entries) == 12 and all(entry["output"] for entry in entries.values())


def test_workers_and_one_process_make_the_same_clips(workspace):
    for name in ("a", "b"):
        save(workspace / f"dataset_raw/s/{name}.wav")
    for recording in find_recordings(Path("dataset_raw"), Path("here"), 44100, True)[0]:
        make_clip(recording)
    assert resample.main(["--num_processes", "2"]) == 0
    for name in ("a", "b"):
        assert Path(f"here/s/{name}.wav").read_bytes() == Path(f"dataset/44k/s/{name}.wav").read_bytes()


@pytest.mark.parametrize(("in_dir", "out_dir"), [
    ("dataset_raw", "dataset_raw"), ("dataset_raw", "dataset_raw/44k"), ("dataset_raw/inner", "dataset_raw"),
])  # fmt: skip
def test_recordings_are_never_replaced_by_their_own_clips(workspace, in_dir, out_dir):
    source = save(workspace / in_dir / "s/a.flac")
    before = source.read_bytes()
    with pytest.raises(DataError, match="neither inside the other"):
        go("--in_dir", in_dir, "--out_dir2", out_dir, "--overwrite")
    assert source.read_bytes() == before and not list(workspace.rglob("*.wav"))


@pytest.mark.parametrize("blocked", ["dataset", "dataset/44k"])
def test_a_file_in_place_of_the_output_folder_is_one_line(workspace, blocked):
    save(workspace / "dataset_raw/s/a.wav")
    (workspace / blocked).parent.mkdir(exist_ok=True)
    (workspace / blocked).write_text("x")
    with pytest.raises(UsageError, match=r"dataset.44k: the folder cannot be made"):
        go()


@pytest.mark.parametrize(
    "content", ["[1]", '{"s/a.wav": 5}', '{"s/a.wav": {"made_from": {}, "output": [1]}}', "[" * 100_000]
)
def test_a_manifest_of_another_form_is_one_line(workspace, content):
    save(workspace / "dataset_raw/s/a.wav")
    (workspace / "dataset/44k").mkdir(parents=True)
    (workspace / "dataset/44k/.resample.json").write_text(content)
    with pytest.raises(DataError, match=r".resample.json: damaged \(.*Delete it and use --overwrite"):
        go()


def test_a_manifest_names_nothing_outside_of_its_folder(workspace, caplog):
    """Data sets are shared; "delete them" must not be said of others' files."""
    outside = save(workspace / "dataset_raw/s/a.wav")
    (workspace / "dataset/44k").mkdir(parents=True)
    entries = {name: {"made_from": {}, "output": [1, 2, "3"]} for name in (str(outside), "../../dataset_raw/s/a.wav")}
    (workspace / "dataset/44k/.resample.json").write_text(json.dumps(entries))
    assert go() == 0 and not warnings_of(caplog)


@pytest.mark.skipif(os.name == "nt", reason="such names cannot be made there")
@pytest.mark.parametrize("name", [b"\xff\xfe.wav", b"two\nlines.wav"])
def test_names_that_no_file_list_can_hold_are_skipped_by_name(workspace, caplog, capsys, name):
    save(workspace / "dataset_raw/s/good.wav")
    save(workspace / "dataset_raw/s/a.wav").rename(os.fsdecode(os.fsencode("dataset_raw/s/") + name))
    assert go() == 1
    assert clips() == ["s/good.wav"] and "Rename it" in caplog.text
    assert "1 written, 0 unchanged, 0 kept, 1 skipped: 1 its name" in capsys.readouterr().out


def test_very_long_names_leave_room_for_the_features_and_stay_apart(workspace):
    for last in "xy":
        save(workspace / "dataset_raw/s" / ("é" * 120 + last + ".wav"))
        save(workspace / "dataset_raw/s" / ("n" * 200) / ("m" * 200 + last + ".wav"))
    assert go() == 0
    names = [Path(clip).name for clip in clips()]
    assert len(set(names)) == 4 and all(len(os.fsencode(name)) <= 200 for name in names)
    assert go() == 0 and len(clips()) == 4


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_linked_folders_are_followed_and_rings_end(workspace):
    save(workspace / "elsewhere/take/a.wav")
    (workspace / "dataset_raw/s").mkdir(parents=True)
    (workspace / "dataset_raw/s/linked").symlink_to(workspace / "elsewhere")
    (workspace / "dataset_raw/s/ring").symlink_to(workspace / "dataset_raw/s")
    assert go() == 0
    assert clips() == ["s/linked_take_a.wav"]
