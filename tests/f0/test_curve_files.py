"""Curves as CSV files: what is written comes back to the bit, what spreadsheets and other tools write is read."""

import numpy as np
import pytest

from modules.errors import UsageError
from modules.f0.curve_files import read_curve, write_curve

HOP = 512 / 44100


def curve(n_frames: int = 400, seed: int = 0) -> np.ndarray:
    """A curve (N,) float32 Hz with gaps."""
    generator = np.random.default_rng(seed)
    hz = 220 * 2 ** (np.cumsum(generator.normal(0, 0.01, n_frames)))
    return np.where(generator.random(n_frames) < 0.3, 0, hz).astype(np.float32)


def write(path, text: str):
    path.write_bytes(text.encode("utf-8"))
    return path


def test_a_curve_comes_back_to_the_bit(tmp_path):
    path, hz = tmp_path / "ü b" / "song.csv", curve()
    write_curve(path, hz, HOP)
    lines = path.read_bytes().decode("utf-8").split("\n")
    assert lines[0] == "time,hz,voiced" and len(lines) == len(hz) + 2 and "\r" not in "".join(lines)
    assert {line.split(",", 1)[1] for line, value in zip(lines[1:], hz) if not value} == {"0,0"}
    found = read_curve(path)
    assert np.array_equal(found.on_frames(len(hz), HOP), hz) and np.array_equal(found.hz, hz)
    assert np.isnan(found.on_frames(len(hz) + 9, HOP)[-8:]).all(), "it says nothing about what comes behind it"


def test_another_curve_is_replaced_only_when_that_is_asked_for(tmp_path):
    path = tmp_path / "song.csv"
    write_curve(path, curve(), HOP)
    before = path.stat().st_mtime_ns
    write_curve(path, curve(), HOP)
    with pytest.raises(UsageError, match=r"song\.csv: is there already, with another curve.*--overwrite"):
        write_curve(path, curve(seed=1), HOP)
    assert path.stat().st_mtime_ns == before
    write_curve(path, curve(seed=1), HOP, overwrite=True)
    assert np.array_equal(read_curve(path).hz, curve(seed=1))


@pytest.mark.parametrize(
    "text",
    [
        "time,hz,voiced\n0,220,1\n0.01,0,0\n0.02,230.5,1\n",
        "\ufeff# mended by hand\r\nTime [s];F0 (Hz);Voiced;note\r\n0;220;1;x\r\n0,01;0;0\r\n0,02;230,5;TRUE;\r\n",
        "hz\tconfidence\ttime\n220\t0.9\t0\n0\t0\t0.01\n230.5\t1\t0.02\n\n",
        "0,220\n0.01,-180.5\n0.02,230.5\n",
        "0 220\n0.01 --undefined--\n 0.02 230.5\n",
        'Zeit;pitch\n'.replace("Zeit", "time") + '"0,00";"220,0"\n"0,01";"0"\n"0,02";"230,5"\n',
        "time,hz,voiced\n0,220,1\n0.01,225.25,0\n0.02,230.5,1\n",
    ],
)  # fmt: skip
def test_what_spreadsheets_and_other_tools_write_is_read(tmp_path, text):
    found = read_curve(write(tmp_path / "song.csv", text))
    assert found.times.tolist() == [0, 0.01, 0.02] and found.hz.tolist() == [220, 0, 230.5]
    assert not found.holes_are_unvoiced


def test_utf_16_of_a_spreadsheet_is_read(tmp_path):
    path = tmp_path / "song.csv"
    path.write_bytes("time\thz\r\n0\t220\r\n0,5\t230,5\r\n".encode("utf-16"))
    assert read_curve(path).hz.tolist() == [220, 230.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,hz\n0,220\n0.01,nan\n", r"line 3: hz is 'nan'; expected a number from 36 to 2400"),
        ("time,hz\n0,220\n\n0.01,\n", r"line 4: hz is ''"),
        ("time,hz\n0,220\n0.01,2500\n", r"line 3: hz is '2500'"),
        ("time,hz\n0,20\n", r"line 2: hz is '20'"),
        ("time,hz\n0.02,220\n0.01,220\n", r"line 3: the time 0\.01 s is not after the one before, 0\.02 s\. Sort"),
        ("time,hz\n0,220\n0,221\n", r"line 3: the time 0 s is not after"),
        ("time,hz\n-1,220\n", r"line 2: the time is '-1'"),
        ("time,hz\nx,220\n", r"line 2: the time is 'x'"),
        ("time,hz\n0,220\n0.01\n", r"line 3: has 1 columns; expected time, hz"),
        ("time,hz,voiced\n0,0,1\n", r"line 2: hz is 0 and voiced is 1"),
        ("time,hz,voiced\n0,220,maybe\n", r"line 2: voiced is 'maybe'; expected 1 or 0"),
        ("when,what\n0,220\n", r"no column is called time or hz; it has: when, what"),
        ("", "fewer than two rows"),
        ("time,hz\n0,220\n", "fewer than two rows"),
    ],
)
def test_what_is_wrong_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(UsageError, match=r"--f0_in .*song\.csv.*" + message) as error:
        read_curve(write(tmp_path / "song.csv", text))
    assert "\n" not in str(error.value)


def test_what_is_no_text_or_not_there_is_refused(tmp_path):
    (tmp_path / "sound.csv").write_bytes(bytes(range(128, 256)))
    for name, message in (("sound.csv", "no text in UTF-8"), ("gone.csv", "no such file"), ("", "is a folder")):
        with pytest.raises(UsageError, match=message):
            read_curve(tmp_path / name)


def test_columns_that_are_not_used_are_named(tmp_path, caplog):
    caplog.set_level("INFO")
    read_curve(write(tmp_path / "song.csv", "time,frequency,confidence\n0,220,1\n1,220,0\n"))
    assert "not used: confidence" in caplog.text


def test_a_curve_of_another_grid_is_interpolated_in_log_frequency(tmp_path):
    times = np.arange(0, 3, 0.01)
    hz = np.where(times < 2, 220 * 2 ** (times / 2), 0)
    rows = "\n".join(f"{time:.2f},{value:.6f}" for time, value in zip(times, hz))
    frames = np.arange(250) * HOP
    found = read_curve(write(tmp_path / "song.csv", f"time,hz\n{rows}\n")).on_frames(250, HOP)
    voiced = frames < 1.985
    np.testing.assert_allclose(found[voiced], 220 * 2 ** (frames[voiced] / 2), rtol=3e-4)
    assert not found[frames > 2.005].any()


def test_a_hole_says_nothing_unless_a_tool_writes_voiced_rows_alone(tmp_path):
    held = [f"{time:.2f},220" for time in np.concatenate([np.arange(0.1, 0.5, 0.01), np.arange(0.8, 1, 0.01)])]
    sparse = read_curve(write(tmp_path / "a.csv", "\n".join(["time,hz", *held]))).on_frames(120, HOP)
    ours = read_curve(write(tmp_path / "b.csv", "\n".join(["time,hz,voiced", *(f"{row},1" for row in held)])))
    frames, in_hole = np.arange(120) * HOP, slice(45, 68)  # 0.52 to 0.79 s
    assert not sparse[in_hole].any() and np.isnan(ours.on_frames(120, HOP)[in_hole]).all()
    for found in (sparse, ours.on_frames(120, HOP)):
        assert np.isnan(found[(frames < 0.09) | (frames > 1.0)]).all()
        np.testing.assert_allclose(found[(frames > 0.1) & (frames < 0.49)], 220)
