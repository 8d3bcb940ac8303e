"""resample.py on long takes: cut into clips that joined are the take, resumed, replaced and named like any clip."""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from signals import sung
from test_resample import ROOT, clips, go, save, warnings_of
from test_resample import workspace as workspace

from modules.errors import DataError, UsageError
from modules.files import sha256_of

RATE = 16000
FLAGS = ("--sr2", "16000")


@functools.cache
def take(seconds=40.0, pause=0.6, pitch=220.0):
    """Phrases of 4 s with pauses between, and noise; to be read only."""
    n_samples = int(seconds * RATE)
    wav = sung(np.full(n_samples, pitch), RATE)
    wav[np.arange(n_samples) % (4 * RATE) >= (4 - pause) * RATE] = 0
    return wav + 1e-4 * np.random.default_rng(0).standard_normal(n_samples).astype(np.float32)


def record(seconds=40.0, name="s/a.wav", **options):
    return save(Path("dataset_raw") / name, take(seconds, **options), RATE)


def samples(names):
    return [soundfile.read(Path("dataset/44k") / name, dtype="int16")[0] for name in names]


def digests():
    return {name: sha256_of(Path("dataset/44k") / name) for name in clips() if not Path(name).name.startswith(".")}


def manifest():
    return json.loads(Path("dataset/44k/.resample.json").read_text("utf-8"))


@pytest.fixture
def out(capsys):
    """What was printed since the last call."""
    return lambda: capsys.readouterr().out.replace("\\", "/")


def test_a_long_take_becomes_numbered_clips_that_joined_are_the_take(workspace, out):
    record(190)
    assert go(*FLAGS, "--slice", "off") == 0
    (whole,) = samples(["s/a.wav"])
    assert "1 recording (3:10) → 1 clip\n" in out()
    assert go(*FLAGS) == 0
    names = clips()
    assert names == [f"s/a_{number:03}.wav" for number in range(1, len(names) + 1)]
    assert f"1 recording (3:10) → {len(names)} clips\n{len(names)} written, 0 unchanged, 0 kept, 0 skipped" in out()
    parts = samples(names)
    assert all(5 <= len(part) / RATE <= 15 for part in parts)
    assert np.array_equal(np.concatenate(parts), whole)


def test_silence_between_clips_is_all_that_is_missing_and_how_much_is_said(workspace, out):
    save(
        Path("dataset_raw/s/a.flac"),
        np.concatenate([take(12), np.zeros(5 * RATE), take(13), np.zeros(9 * RATE), take(9)]),
        RATE,
    )
    assert go(*FLAGS, "--slice", "off") == 0
    (whole,) = samples(["s/a.wav"])
    assert go(*FLAGS) == 0
    assert re.search(r"^1 recording \(0:48\) → \d clips, 0:1[1-4] of silence left out$", out(), re.MULTILINE)
    at, missing = 0, []
    for part in samples(clips()):
        start = whole.tobytes().index(part.tobytes(), 2 * at) // 2
        assert np.array_equal(whole[start : start + len(part)], part)
        missing.append(whole[at:start])
        at = start + len(part)
    assert at == len(whole)
    left_out = np.concatenate(missing)
    assert 10 * RATE < len(left_out) < 14 * RATE and np.abs(left_out.astype(int)).max() < 200


def test_a_second_run_does_nothing_and_a_new_recording_only_itself(workspace, out):
    record()
    assert go(*FLAGS) == 0
    times = {name: (Path("dataset/44k") / name).stat().st_mtime_ns for name in clips()}
    assert go(*FLAGS) == 0
    assert f"0 written, {len(times)} unchanged" in out()
    record(12, "s/short.wav")
    assert go(*FLAGS) == 0
    assert f"1 recording (0:12) → 1 clip\n1 written, {len(times)} unchanged" in out()
    assert clips() == sorted([*times, "s/short.wav"])
    assert all((Path("dataset/44k") / name).stat().st_mtime_ns == times[name] for name in times)


def test_several_recordings_are_told_together(workspace, out):
    record(40, "s/a.wav")
    record(10, "t/b.wav")
    assert resample_in_workers() == 0
    assert f"2 recordings (0:50) → {len(clips())} clips" in out()


def resample_in_workers():
    import resample

    return resample.main(["--num_processes", "2", *FLAGS])


def test_takes_up_to_a_third_longer_than_a_clip_stay_whole(workspace):
    record(19.9)
    assert go(*FLAGS) == 0 and clips() == ["s/a.wav"]
    assert go(*FLAGS, "--slice", "4-10") == 0 and len(clips()) > 1 and "s/a.wav" not in clips()


@pytest.mark.parametrize(
    "slice", ["15-5", "x", "0-3", "0.5-3", "5-5", "5-121", "5", "5-15-20", "-5-15", "٥-١٥", "Off", ""]
)
def test_lengths_that_cannot_be_are_one_line(workspace, slice):
    record()
    with pytest.raises(
        UsageError, match=r"expected MIN-MAX in seconds, 1 <= MIN < MAX <= 120, for example 5-15; or off"
    ):
        go(f"--slice={slice}")
    assert not Path("dataset").exists()


def test_an_old_data_set_is_not_made_again_except_for_its_long_takes(workspace, out, caplog):
    record(12, "s/short.wav")
    record(40, "s/long.wav")
    assert go(*FLAGS, "--slice", "off") == 0  # writes what resample.py wrote before it could cut
    entries = manifest()
    assert all(set(entry) == {"made_from", "output"} and len(entry["output"]) == 3 for entry in entries.values())
    caplog.clear(), out()
    with caplog.at_level("INFO"):
        assert go(*FLAGS) == 0
    assert "1 recording (0:40)" in out() and "s/long.wav" not in clips() and "s/short.wav" in clips()
    assert "1 clip of before removed: other ones are made of their recordings now (s/long.wav)" in caplog.text


def test_an_old_whole_clip_that_somebody_edited_stays(workspace, out):
    record()
    assert go(*FLAGS, "--slice", "off") == 0
    save(Path("dataset/44k/s/a.wav"), take(30), RATE)
    out()
    assert go(*FLAGS) == 0 and clips() == ["s/a.wav"]
    assert "0 written, 0 unchanged, 1 kept" in out()
    assert go(*FLAGS, "--overwrite") == 0 and "s/a.wav" not in clips() and len(clips()) > 2


def test_a_changed_recording_replaces_exactly_its_own_clips(workspace, out):
    record(60)
    record(40, "s/b.wav", pitch=330)
    assert go(*FLAGS) == 0
    before = digests()
    record(30, pitch=150)
    out()
    assert go(*FLAGS) == 0
    now = digests()
    mine = [name for name in now if name.startswith("s/a_")]
    assert len(mine) < sum(name.startswith("s/a_") for name in before) and "1 recording (0:30)" in out()
    assert all(now[name] != before[name] for name in mine)
    others = {name: digest for name, digest in before.items() if name.startswith("s/b_")}
    assert others.items() <= now.items() and len(now) == len(mine) + len(others)


@pytest.mark.parametrize("overwrite", [False, True])
def test_clips_that_somebody_edited_stay_and_are_named_unless_the_flag_says_so(workspace, caplog, out, overwrite):
    record(60)
    assert go(*FLAGS) == 0
    n_clips = len(clips())
    edited = [f"s/a_{number:03}.wav" for number in (2, n_clips)]
    for name in edited:
        save(Path("dataset/44k") / name, take(6), RATE)
    assert go(*FLAGS) == 0
    assert f"0 written, {n_clips - 2} unchanged, 2 kept" in out() and edited[1] in warnings_of(caplog)[-1]
    before = digests()
    record(30)
    assert go(*FLAGS, *["--overwrite"] * overwrite) == 0
    assert len(clips()) < n_clips + overwrite
    assert {name for name in edited if digests().get(name) == before[name]} == (set() if overwrite else set(edited))
    if overwrite:
        assert edited[1] not in clips()
    else:
        assert "2 kept" in out() and all(name in warnings_of(caplog)[-1] for name in edited)
        caplog.clear()
        assert go(*FLAGS) == 0  # the one without a successor is named as long as it is there
        assert "1 clips have no recording any more" in caplog.text and edited[1] in caplog.text


def test_a_file_of_others_in_the_place_of_a_new_clip_stays(workspace, caplog, out):
    record()
    mine = save(Path("dataset/44k/s/a_002.wav"), take(7), RATE)
    before = sha256_of(mine)
    for _ in range(2):
        assert go(*FLAGS) == 0 and sha256_of(mine) == before
        assert "1 kept" in out() and "s/a_002.wav" in warnings_of(caplog)[-1]
    mine.unlink()
    assert go(*FLAGS, "--overwrite") == 0 and sha256_of(mine) != before and "0 kept" in out()


def test_slicing_turned_off_does_not_replace_a_file_of_others(workspace, out):
    record()
    assert go(*FLAGS) == 0
    n_clips = len(clips())
    mine = save(Path("dataset/44k/s/a.wav"), take(7), RATE)
    before = sha256_of(mine)
    assert go(*FLAGS, "--slice", "off") == 0 and sha256_of(mine) == before and len(clips()) == n_clips + 1
    mine.unlink()
    assert go(*FLAGS, "--slice", "off") == 0 and clips() == ["s/a.wav"]


def test_cuts_that_found_no_silence_are_counted(workspace, caplog):
    save(Path("dataset_raw/s/tone.wav"), sung(np.full(25 * RATE, 220.0), RATE), RATE)
    record()
    with caplog.at_level("INFO"):
        assert go(*FLAGS) == 0
    assert "1 cut without a silence within reach, made where it is quietest" in caplog.text


def test_a_deleted_clip_stays_out_until_all_of_its_recording_are_deleted(workspace, caplog, out):
    record()
    assert go(*FLAGS) == 0
    before = digests()
    Path("dataset/44k/s/a_002.wav").unlink()
    with caplog.at_level("INFO"):
        assert go(*FLAGS) == 0
    assert before.keys() - digests().keys() == {"s/a_002.wav"} and f"{len(before) - 1} unchanged" in out()
    assert "1 clip that you have deleted stay out (s/a_002.wav); --overwrite makes them" in caplog.text
    for clip in Path("dataset/44k/s").glob("*.wav"):
        clip.unlink()
    assert go(*FLAGS) == 0 and digests() == before


def test_clips_whose_recording_is_gone_are_named(workspace, caplog):
    record().unlink()
    record(10, "s/b.wav")
    record()
    assert go(*FLAGS) == 0
    Path("dataset_raw/s/a.wav").unlink()
    n_clips = len(clips()) - 1
    assert go(*FLAGS) == 0 and len(clips()) == n_clips + 1
    assert f"{n_clips} clips have no recording any more" in caplog.text and "s/a_001.wav" in caplog.text


@pytest.mark.parametrize(
    ("long", "other"), [("a.wav", "a_001.flac"), ("é.wav", "É_002.flac"), ("x/a.wav", "x_a_003.wav")]
)
def test_a_recording_called_like_a_clip_of_another_is_refused_before_anything_is_written(workspace, long, other):
    record(40, f"s/{long}")
    record(10, f"s/{other}")
    with pytest.raises(DataError, match=r"would both become .*_00\d\.wav\. Rename one of each, or use --slice off"):
        go(*FLAGS)
    assert not Path("dataset").exists()
    assert go(*FLAGS, "--slice", "off") == 0 and len(clips()) == 2


def test_numbers_that_no_clip_gets_are_no_collision(workspace):
    record(10, "s/a.wav")
    for name in ("a_001", "b_100", "c_000"):
        record(10, f"s/{name}.wav")
    record(30, "s/b.wav")
    record(30, "s/c.wav")
    record(30, "t/a.wav")
    (Path("dataset_raw/s") / "broken.wav").write_bytes(b"RIFF")
    record(10, "s/broken_001.wav")
    assert go(*FLAGS) == 1 and {"s/a.wav", "s/a_001.wav", "s/b_001.wav", "s/b_100.wav", "s/c_000.wav"} < set(clips())


def test_long_and_foreign_names_leave_room_for_the_number(workspace):
    for name in ("é" * 98, "é" * 110 + "x", "é" * 110 + "y", "ключ и 音 (1)", "v1.2"):
        record(21, f"s/{name}.wav")
    assert go(*FLAGS) == 0
    names = [Path(clip).name for clip in clips()]
    assert len(names) == 10 and all(len(os.fsencode(name)) <= 200 for name in names)
    assert {"ключ и 音 (1)_001.wav", "v1.2_002.wav"} <= set(names)
    before = digests()
    assert go(*FLAGS) == 0 and digests() == before


def test_phones_and_mp3_are_cut_too(workspace):
    import av

    wav = take(45)
    Path("dataset_raw/s").mkdir(parents=True)
    with av.open("dataset_raw/s/phone.m4a", "w", format="ipod") as file:
        track = file.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(wav[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        for packet in [*track.encode(frame), *track.encode(None)]:
            file.mux(packet)
    save(Path("dataset_raw/s/player.mp3"), wav, RATE)
    assert go(*FLAGS) == 0
    for name in ("phone", "player"):
        parts = samples(clip for clip in clips() if clip.startswith(f"s/{name}_"))
        assert len(parts) >= 3 and sum(map(len, parts)) == pytest.approx(45 * RATE, abs=RATE)


def test_pieces_of_a_take_too_long_for_memory_are_the_same(workspace, monkeypatch):
    record(50)
    assert go() == 0
    before = digests()
    monkeypatch.setattr("modules.data.recordings._LONGEST_KEPT", 1)
    for flags in ([], ["--skip_loudnorm"], []):
        assert go("--overwrite", *flags) == 0
        assert (digests() == before) == (not flags) and len(clips()) == len(before)


@pytest.mark.parametrize("name", ["../b.wav", "x/b.wav", "x\\b.wav", "..", "", "/b.wav"])
def test_a_manifest_can_have_nothing_deleted_outside_of_the_speakers_folder(workspace, name):
    record(30)
    outside = save(Path("dataset/44k/b.wav"), take(1), RATE)
    output = [outside.stat().st_size, outside.stat().st_mtime_ns, sha256_of(outside)]
    for entry in ({"output": {name: output}}, {"output": None, "mine": {name: [output[2]]}}):
        Path("dataset/44k/.resample.json").write_text(json.dumps({"s/a.wav": {"made_from": {}, **entry}}))
        with pytest.raises(DataError, match="damaged"):
            go(*FLAGS)
        assert outside.exists()


def test_a_recording_that_changes_while_it_is_cut_leaves_nothing(workspace, monkeypatch, caplog):
    path = record(30)
    from modules.data import recordings

    write = recordings.write_clips

    def grow(*arguments):
        with path.open("ab") as still_recorded:
            still_recorded.write(bytes(1000))
        return write(*arguments)

    monkeypatch.setattr(recordings, "write_clips", grow)
    assert go(*FLAGS) == 1 and "has changed while it was read" in caplog.text
    assert not [path for path in Path("dataset").rglob("*.wav")]


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
@pytest.mark.slow  # test_resample.py kills it too, with short takes
def test_a_kill_at_any_moment_and_the_same_command_give_what_an_undisturbed_run_gives(workspace):
    command = [sys.executable, str(ROOT / "resample.py"), "--num_processes", "2", *FLAGS]
    folder = Path("dataset/44k/s")

    def run_whole():
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        assert not list(folder.glob(".*.partial*"))
        return digests()

    def kill_when(is_time):
        script = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        while script.poll() is None and not is_time():
            time.sleep(0.001)
        os.killpg(script.pid, signal.SIGKILL)
        script.wait()

    def record_all(pitch):
        for index in range(3):
            record(60 + 20 * index, f"s/{index}.wav", pitch=pitch)

    record_all(220)
    record(12, "s/short.wav")
    old = run_whole()
    mine = save(folder / "0_002.wav", take(6), RATE)
    edited = sha256_of(mine)
    record_all(150)
    times = {path: path.stat().st_mtime_ns for path in folder.glob("[0-9]_001.wav")}
    for is_time in (
        lambda: list(folder.glob(".*.partial*")),
        lambda: len(list(folder.glob(".*.partial*"))) > 4,
        lambda: any(path.stat().st_mtime_ns != times[path] for path in times),
    ):
        kill_when(is_time)
        found = digests()
        assert (
            found["s/0_002.wav"] == edited and found["s/short.wav"] == old["s/short.wav"] and found.keys() == old.keys()
        )
    found = run_whole()
    assert found.pop("s/0_002.wav") == edited
    shutil.rmtree("dataset")
    expected = run_whole()
    expected.pop("s/0_002.wav")
    assert found == expected


@pytest.mark.parametrize("is_changed_again", [False, True])
@pytest.mark.parametrize("step", range(12))
def test_a_stop_between_any_two_steps_of_placing_loses_nothing(workspace, monkeypatch, out, step, is_changed_again):
    """Renaming, deleting and noting, each ended before it begins, as by a kill."""
    import modules.data.manifest as places

    record(60)
    assert go(*FLAGS) == 0
    record(30, pitch=150)
    calls = 0

    class Killed(BaseException):
        pass

    def counted(function):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls > step:
                raise Killed
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", counted(Path.replace))
        patch.setattr(places, "discard", counted(places.discard))
        patch.setattr(places, "write_json", counted(places.write_json))  # a killed process does not note where it was
        with pytest.raises(Killed):
            go(*FLAGS)
    if is_changed_again:
        record(40, pitch=180)
    assert go(*FLAGS) == 0 and ", 0 kept" in out()
    found = digests()
    assert not list(Path("dataset").rglob("*.partial*")) and all(entry["output"] for entry in manifest().values())
    assert go(*FLAGS, "--overwrite") == 0 and digests() == found
