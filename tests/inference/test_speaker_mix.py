"""Mixes of voices: what so-vits-svc 4.1 makes of a map, and a clear refusal of what nobody can mean."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.errors import ConfigError, UsageError
from modules.inference.speaker_mix import SpeakerMix, constant_mix, load_mix

SPEAKERS = {"alto": 0, "tenor": 1, "ведущий голос": 3}


def write(folder, value, name="spkmix.json"):
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), "utf-8")
    return path


def weights_of(folder, value, times, song_seconds=10.0, name="spkmix.json"):
    return load_mix(write(folder, value, name), SPEAKERS).weights(np.array(times), song_seconds)


def upstream_columns(tracks: dict[int, list], n_frames: int) -> np.ndarray:
    """(S, n_frames) by the rules of so-vits-svc 4.1: frames cut by int(), equal steps within a segment."""
    rows = []
    for speaker in sorted(tracks):
        row = np.zeros(n_frames)
        for t0, t1, v0, v1 in tracks[speaker]:
            begin, end = int(n_frames * t0), int(n_frames * t1)
            row[begin:end] = v0 + (v1 - v0) / (end - begin) * np.arange(end - begin)
        rows.append(row)
    rows = np.array(rows)
    total = rows.sum(axis=0)
    return np.where(total == 0, 1 / len(rows), rows / np.where(total == 0, 1, total))


def test_a_map_gives_what_so_vits_svc_gives_on_its_frames(tmp_path):
    tracks = {
        0: [[0, 0.25, 1, 0], [0.25, 1, 0, 0]],
        1: [[0, 0.5, 2, 0.5], [0.5, 0.75, 0, 0], [0.75, 1, 0, 3]],
        3: [[0, 0.5, 0, 1], [0.5, 0.75, 0, 0], [0.75, 1, 1, 1]],
    }
    n_frames = 400  # all boundaries fall on frames, so that both ways count from the same places
    found = weights_of(tmp_path, {str(key): track for key, track in tracks.items()}, np.arange(n_frames) / 40)
    assert found.shape == (4, n_frames) and found.dtype == np.float32
    np.testing.assert_allclose(found[[0, 1, 3]], upstream_columns(tracks, n_frames), atol=1e-6)
    assert not found[2].any()


def test_a_ramp_is_straight_and_divided_by_the_sum(tmp_path):
    found = weights_of(tmp_path, {"alto": [[0, 1, 0, 3]], "tenor": [[0, 1, 1, 1]]}, [0, 5, 10])
    np.testing.assert_allclose(found[:2], [[0, 0.6, 0.75], [1, 0.4, 0.25]], atol=1e-6)


def test_where_two_segments_meet_the_later_one_counts(tmp_path):
    tracks = {"alto": [[0, 0.5, 1, 1], [0.5, 1, 0, 0]], "tenor": [[0, 1, 1, 1]]}
    np.testing.assert_allclose(weights_of(tmp_path, tracks, [4.999, 5])[0], [0.5, 0])


def test_where_all_values_are_zero_the_listed_speakers_share_equally(tmp_path):
    found = weights_of(tmp_path, {"alto": [[0, 1, 0, 1]], "tenor": [[0, 1, 0, 0]]}, [0, 1])
    np.testing.assert_allclose(found, [[0.5, 1], [0.5, 0], [0, 0], [0, 0]])


def test_outside_of_the_song_the_edges_hold(tmp_path):
    tracks = {"alto": [[0, 1, 1, 0]], "tenor": [[0, 1, 0, 1]]}
    np.testing.assert_allclose(weights_of(tmp_path, tracks, [-3, 0, 10, 99])[0], [1, 1, 0, 0])
    np.testing.assert_allclose(weights_of(tmp_path, tracks, [0, 1], song_seconds=0)[0], [1, 1])


def test_seconds_count_seconds_and_the_last_value_holds(tmp_path):
    value = {"unit": "seconds", "tracks": {"alto": [[0, 2, 1, 1], [2, 4, 1, 0]], "tenor": [[0, 4, 0, 0], [4, 6, 0, 1]]}}
    for song_seconds in (5, 500):
        found = weights_of(tmp_path, value, [0, 3.9, 5, 6, 400], song_seconds)
        np.testing.assert_allclose(found[:2], [[1, 1, 0, 0, 0], [0, 0, 1, 1, 1]], atol=1e-6)


def test_fractions_can_be_named_as_the_unit(tmp_path):
    tracks = {"alto": [[0, 1, 0, 3]], "tenor": [[0, 1, 1, 1]]}
    named = load_mix(write(tmp_path, {"unit": "fraction", "tracks": tracks}, "a.json"), SPEAKERS)
    assert named == load_mix(write(tmp_path, tracks), SPEAKERS)


def test_names_of_any_script_and_ids_mean_the_same_speaker(tmp_path):
    by_name = load_mix(write(tmp_path, {"ведущий голос": [[0, 1, 1, 1]]}, "name.json"), SPEAKERS)
    by_id = load_mix(write(tmp_path, {"3": [[0, 1, 1, 1]]}, "id.json"), SPEAKERS)
    assert by_name == by_id and by_name.weights(np.zeros(1), 1.0)[3] == 1


def test_a_name_wins_over_an_id(tmp_path):
    mix = load_mix(write(tmp_path, {"0": [[0, 1, 1, 1]]}), {"alto": 0, "0": 1})
    assert [track.speaker for track in mix.tracks] == [1]
    mix = load_mix(write(tmp_path, "spk_mix_map = {0: [[0, 1, 1, 1]]}", "spkmix.py"), {"alto": 0, "0": 1})
    assert [track.speaker for track in mix.tracks] == [0], "a number in a Python file is an id"


def test_a_python_file_is_read_and_not_run(tmp_path):
    marker = tmp_path / "ran"
    text = f'''"""Mixes C:\\songs."""
import pathlib, no_such_package
pathlib.Path({str(marker)!r}).write_text("x")
spk_mix_map: dict = {{0: [[0., 1., 0, 3]]}}
other = {{0: [[0, 1, 5, 5]]}}
spk_mix_map = {{
    0: [[0., 1., 0, 3]],  # rises
    1: [(0., 1., 1, 1)],
}}
'''
    found = weights_of(tmp_path, text, [0, 5, 10], name="spkmix.py")
    np.testing.assert_allclose(found[:2], [[0, 0.6, 0.75], [1, 0.4, 0.25]], atol=1e-6)
    assert not marker.exists()


@pytest.mark.parametrize(("text", "message"), [
    ("spk_mix_map = {0: [[0, 1, 0.5 * 2, 1]]}", "line 1: spk_mix_map holds more than numbers"),
    ("spk_mix_map = {0: open('ran', 'w')}", "line 1: spk_mix_map holds more than numbers"),
    ("\nspk_mix_map = make()", "line 2: spk_mix_map holds more than numbers"),
    ("spk_mix_map = {[0]: 1}", "line 1: spk_mix_map holds more than numbers"),
    ("def f():\n    spk_mix_map = {0: [[0, 1, 1, 1]]}", "assigns nothing to spk_mix_map"),
    ("spk_mix_map = {0: [[0, 1, 1, 1]], 0: [[0, 1, 0, 0]]}", "line 1: spk_mix_map has a speaker twice"),
    ("spk_mix_map = {0: [[0, 1, 1, 1]]", "not valid Python at line 1"),
    ("spk_mix_map = 3", "holds 3, not a map of speakers"),
    ("spk_mix_map = {True: [[0, 1, 1, 1]]}", "no speaker True"),
    ("spk_mix_map = " + "[" * 5000, "spkmix.py: not valid Python|nested too deeply"),
    ("spk_mix_map = " + "-" * 100_000 + "1", "spkmix.py: cannot be read .(nested|max|too)"),
    ("spk_mix_map = {0: [[0, 1, 1, 0x1" + "0" * 9000 + "]]}", "segment 1, number 4: .*is not a finite number"),
    ("spk_mix_map = {0: [[0, 1, 1j, 1]]}", "segment 1, number 3: 1j is not a finite number"),
])  # fmt: skip
def test_what_is_wrong_in_a_python_file_is_one_line(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        load_mix(write(tmp_path, text, "spkmix.py"), SPEAKERS, 200.0)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert [path.name for path in tmp_path.iterdir()] == ["spkmix.py"]


@pytest.mark.parametrize(("track", "message"), [
    ([[0, 0.5, 1, 1], [0.5, 1, 1, -0.2]], r"segment 2, at 1 \(200.00 s\): the value is -0.2"),
    ([[0, 0.5, -1, 1], [0.5, 1, 1, 1]], r"segment 1, at 0 \(0.00 s\): the value is -1"),
    ([[0, 0.5, 1, 1], [0.5, 0.5, 1, 1]], r"segment 2, at 0.5 \(100.00 s\): ends at 0.5 \(100.00 s\)"),
    ([[0, 0.5, 1, 1], [0.5, 0.2, 1, 1]], r"segment 2, at 0.5 \(100.00 s\): ends at 0.2 \(40.00 s\)"),
    ([[0, 0.5, 1, 1], [0.6, 1, 1, 1]], r"segment 2, at 0.6 \(120.00 s\): leaves a gap .* at 0.5 \(100.00 s\)"),
    ([[0, 0.5, 1, 1], [0.4, 1, 1, 1]], r"segment 2, at 0.4 \(80.00 s\): overlaps .* at 0.5 \(100.00 s\)"),
    ([[0.1, 1, 1, 1]], r"segment 1, at 0.1 \(20.00 s\): the track starts here; let it start at 0"),
    ([[0, 0.25, 1, 1], [0.25, 0.9, 1, 1]], r"segment 2, at 0.9 \(180.00 s\): the track ends here; let it end at 1"),
    ([[0, 1.5, 1, 1]], r"segment 1, at 1.5 \(300.00 s\): the track ends here; let it end at 1"),
    ([[0, 0.5, 1, 1], [0.5, 1, True, 1]], r"segment 2, number 3: True is not a finite number"),
    ([[0, 0.5, 1, 1], [0.5, 1, "1", 1]], r"segment 2, number 3: '1' is not a finite number"),
    ([[0, 0.5, 1, 1], [0.5, 1, float("nan"), 1]], r"segment 2, number 3: nan is not a finite number"),
    ([[0, 0.5, 1, 1], [0.5, float("inf"), 1, 1]], r"segment 2, number 2: inf is not a finite number"),
    ([[0, 0.5, 1, 1], [0.5, 1, 10**400, 1]], r"segment 2, number 3: 1000.*is not a finite number"),
    ([[0, 0.5, 1, 1], [0.5, 1, 1]], r"segment 2: \[0.5, 1, 1\] is not \[start, end"),
    ([0, 1, 1, 1], r"segment 1: 0 is not \[start, end"),
    ([], r": \[\] is not a list of segments"),
    ({}, r": \{\} is not a list of segments"),
])  # fmt: skip
def test_every_error_of_a_segment_names_file_speaker_number_and_second(tmp_path, track, message):
    path = write(tmp_path, {"alto": [[0, 1, 1, 1]], "ведущий голос": track})
    with pytest.raises(ConfigError, match=message) as caught:
        load_mix(path, SPEAKERS, 200.0)
    assert str(caught.value).startswith(f"{path}: speaker 'ведущий голос'") and "\n" not in str(caught.value)


def test_without_the_length_of_the_song_an_error_names_the_fraction(tmp_path):
    with pytest.raises(ConfigError, match=r"speaker 'alto', segment 1, at 0\.25: the track ends here"):
        load_mix(write(tmp_path, {"alto": [[0, 0.25, 1, 1]]}), SPEAKERS)


def test_an_error_in_seconds_names_the_second(tmp_path):
    value = {"unit": "seconds", "tracks": {"alto": [[0, 12, 1, 1], [12.5, 20, 1, 1]]}}
    with pytest.raises(ConfigError, match=r"segment 2, at 12\.5 s: leaves a gap .*ends at 12 s"):
        load_mix(write(tmp_path, value), SPEAKERS, 200.0)


@pytest.mark.parametrize(("value", "message"), [
    ({}, 'holds no speaker. Write, for example: {"alto"'),
    ({"unit": "seconds", "tracks": {}}, "holds no speaker"),
    ({"unit": "seconds"}, "not a map of speakers"),
    ({"unit": "minutes", "tracks": {"alto": [[0, 1, 1, 1]]}}, "unit is 'minutes'; expected one of: fraction, seconds"),
    ({"tracks": {"alto": [[0, 1, 1, 1]]}, "bass": 1}, "'bass' beside unit and tracks"),
    ([1], "not a map of speakers"),
    ({"soprano": [[0, 1, 1, 1]]}, r"no speaker .soprano.. It has: alto \(id 0\), tenor .*, ведущий голос \(id 3\)"),
    ({"2": [[0, 1, 1, 1]]}, "no speaker '2'. It has: alto"),
    ({"²": [[0, 1, 1, 1]]}, "no speaker '²'"),
    ({"alto": [[0, 1, 1, 1]], "0": [[0, 1, 1, 1]]}, "'0' has two tracks, by name and by id"),
    ('{"alto": [[0, 1, 1, 1]], "alto": [[0, 1, 0, 0]]}', "'alto' is there twice"),
    ('{"alto":\n [[0, 1, 1 1]]}', "line 2, column 12"),
    ("", "line 1, column 1"),
    ("[" * 100_000, "spkmix.json: cannot be read"),
    ('{"alto": [[0, 1, 1, 1' + "0" * 9000 + "]]}", "cannot be read|not a finite number"),
    (" " * 1_000_001, "larger than 1000 kB"),
])  # fmt: skip
def test_what_is_wrong_with_a_map_is_one_line(tmp_path, value, message):
    path = write(tmp_path, value)
    with pytest.raises(ConfigError, match=message) as caught:
        load_mix(path, SPEAKERS, 200.0)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_a_missing_file_comes_with_an_example_that_works(tmp_path):
    with pytest.raises(ConfigError, match="no such file") as caught:
        load_mix(tmp_path / "spkmix.json", SPEAKERS)
    example = str(caught.value).partition("with this text: ")[2]
    np.testing.assert_allclose(weights_of(tmp_path, example, [0, 10])[:2], [[1, 0], [0, 1]])
    with pytest.raises(ConfigError, match=r'\{"only": \[\[0, 1, 1, 1\]\]\}'):
        load_mix(tmp_path / "none.json", {"only": 0})


def test_text_that_is_not_utf8_and_a_folder_are_refused(tmp_path):
    (tmp_path / "spkmix.json").write_bytes('{"ведущий голос": []}'.encode("cp1251"))
    with pytest.raises(ConfigError, match="Save it as UTF-8"):
        load_mix(tmp_path / "spkmix.json", SPEAKERS)
    with pytest.raises(ConfigError, match="no such file"):
        load_mix(tmp_path, SPEAKERS)


def test_a_byte_order_mark_and_rounded_times_are_accepted(tmp_path):
    path = tmp_path / "spkmix.json"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"alto": [[0, 0.30000000000000004, 1, 1], [0.3, 1, 1, 1]]}')
    assert load_mix(path, SPEAKERS).weights(np.array([3.0]), 10)[0] == 1


@st.composite
def maps(draw):
    """A valid map of fractions or seconds for some of the speakers."""
    unit = draw(st.sampled_from(["fraction", "seconds"]))
    values = st.one_of(st.just(0), st.floats(0, 1e308), st.floats(0, 10))
    tracks = {}
    for name in draw(st.lists(st.sampled_from(sorted(SPEAKERS)), min_size=1, unique=True)):
        inner = draw(st.lists(st.integers(1, 99), max_size=5, unique=True))
        edges = [0, *sorted(inner), 100]
        scale = 0.01 if unit == "fraction" else draw(st.floats(0.01, 5))
        tracks[name] = [[a * scale, b * scale, draw(values), draw(values)] for a, b in pairwise(edges)]
    return {"unit": unit, "tracks": tracks}


@settings(deadline=None, max_examples=150)
@given(value=maps(), song_seconds=st.floats(0, 1000), times=st.lists(st.floats(-10, 2000), max_size=20))
def test_the_weights_of_any_valid_map_are_shares(tmp_path_factory, value, song_seconds, times):
    mix = load_mix(write(tmp_path_factory.mktemp("mix"), value), SPEAKERS, song_seconds)
    found = mix.weights(np.array(times, np.float64), song_seconds)
    assert found.shape == (4, len(times)) and found.min(initial=0) >= 0 and found.max(initial=0) <= 1
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-6)  # three roundings to float32
    absent = [speaker for name, speaker in SPEAKERS.items() if name not in value["tracks"]]
    assert not found[absent].any()


def test_a_mix_is_a_key_and_has_a_plain_description(tmp_path):
    value = {"alto": [[0, 1, 0, 3]], "tenor": [[0, 1, 1, 1]]}
    one, two = load_mix(write(tmp_path, value), SPEAKERS), load_mix(write(tmp_path, value), SPEAKERS)
    assert one == two and hash(one) == hash(two) and isinstance(one, SpeakerMix)
    assert json.loads(json.dumps(one.description)) == one.description == two.description
    value["alto"][0][3] = 2
    assert load_mix(write(tmp_path, value), SPEAKERS).description != one.description


def test_a_constant_mix_is_divided_by_its_sum_and_never_changes():
    found = constant_mix(["alto=2", "ведущий голос=6"], SPEAKERS).weights(np.array([-1.0, 0, 3, 99]), 10)
    np.testing.assert_allclose(found, np.repeat([[0.25], [0], [0], [0.75]], 4, axis=1), atol=1e-7)


def test_a_name_may_hold_an_equals_sign():
    assert constant_mix(["a=b=1"], {"a=b": 0}).weights(np.zeros(1), 1) == 1


def test_a_constant_mix_takes_ids_and_any_scale():
    assert constant_mix(["1=1", "0=0"], SPEAKERS) == constant_mix(["tenor=1e308"], SPEAKERS)
    found = constant_mix(["alto=1e308", "tenor=1e308"], SPEAKERS).weights(np.zeros(1), 1)
    np.testing.assert_allclose(found[:2, 0], 0.5)


@pytest.mark.parametrize(("words", "message"), [
    (["alto=0.5", "soprano=1"], r"--mix 'soprano=1': the model has no speaker 'soprano'. It has: alto \(id 0\), tenor"),
    (["alto"], "--mix 'alto': expected SPEAKER=WEIGHT"),
    (["alto=-1"], "--mix 'alto=-1': the weight is '-1'"),
    (["alto=nan"], "--mix 'alto=nan': the weight"),
    (["alto=inf"], "--mix 'alto=inf': the weight"),
    (["alto=half"], "--mix 'alto=half': the weight"),
    (["alto="], "--mix 'alto=': the weight"),
    (["=1"], "--mix '=1': the model has no speaker ''"),
    (["alto=0", "tenor=0"], "--mix alto=0 tenor=0: all weights are 0"),
    (["alto=1", "alto=2"], "--mix 'alto=2': that speaker is there twice"),
    (["alto=1", "0=2"], "--mix '0=2': that speaker is there twice"),
    ([], "--mix is empty.*tenor"),
])  # fmt: skip
def test_a_wrong_word_of_a_constant_mix_is_named(words, message):
    with pytest.raises(UsageError, match=message):
        constant_mix(words, SPEAKERS)
