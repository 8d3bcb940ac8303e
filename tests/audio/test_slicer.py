"""Segments against so-vits-svc's own cuts, against librosa's loudness, and by what no slicer may do."""

import json
from itertools import pairwise
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modules.audio.slicer import RmsMeter, Segment, slice_silence, slicer_hop

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"


def measure(wav, rate):
    meter = RmsMeter(rate)
    meter.push(wav)
    return meter.finish()


def cut(wav, rate, threshold_db=-40, min_length_ms=5000):
    return slice_silence(measure(wav, rate), len(wav), rate, threshold_db, min_length_ms)


@pytest.mark.parametrize("name", "ac")
def test_cuts_of_the_synthetic_clips_equal_the_goldens(name):
    wav, _ = soundfile.read(GOLDENS / "tiny" / f"slicer_{name}.flac", dtype="float32")
    expected = json.loads((GOLDENS / "tiny" / "slicer_expected.json").read_text())[f"{name}_int16"]
    spans = [(*map(int, chunk["split_time"].split(",")), not chunk["slice"]) for chunk in expected.values()]
    assert cut(wav, 8000) == [Segment(*span) for span in spans if span[1] > span[0]]


@pytest.mark.parametrize(("key", "threshold", "min_length"), [
    ("cut_db-40", -40, 5000), ("cut_db-30", -30, 5000), ("cut_db-50", -50, 5000), ("cut_db-40_min2000", -40, 2000),
])  # fmt: skip
def test_cuts_of_the_long_clip_equal_the_goldens(key, threshold, min_length):
    golden = np.load(GOLDENS / "rule" / "slicer.npz")
    wav = golden["in_wav_int16"].astype(np.float32) / 32768
    spans = [tuple(span) for span in golden[f"{key}_split"].tolist() if span[1] > span[0]]
    found = cut(wav, int(golden["in_sr"]), threshold, min_length)
    assert [(segment.start, segment.end) for segment in found] == spans
    if f"{key}_slice" in golden:
        silent = [bool(s) for s, (a, b) in zip(golden[f"{key}_slice"], golden[f"{key}_split"]) if b > a]
        assert [not segment.voiced for segment in found] == silent


def retold(rms, threshold, min_length, min_interval, keep):
    """The rules of so-vits-svc's slicer told a second time: silences first, then what happens to each."""
    rms, quiet = list(rms), [value < threshold for value in rms]
    runs, clip_start, tags = [], 0, []
    for frame, silent in enumerate(quiet):
        if silent and (frame == 0 or not quiet[frame - 1]):
            runs.append([frame, frame])
        if silent:
            runs[-1][1] = frame + 1

    def quietest(first, last):
        return min(range(first, min(last, len(rms) - 1) + 1), key=lambda frame: rms[frame])

    for start, end in runs:
        if end == len(rms):
            if end - start >= min_interval:
                tags.append((quietest(start, min(end, start + keep)), end + 1))
            continue
        middle = end - start >= min_interval and end - clip_start >= min_length
        if not (middle or (start == 0 and end > keep)):
            continue
        near_start, near_end = (start, start + keep), (end - keep, end)
        if end - start <= keep:
            left = right = quietest(start, end)
        elif end - start <= 2 * keep and start > 0:
            between = quietest(near_end[0], near_start[1])
            left, right = min(quietest(*near_start), between), max(quietest(*near_end), between)
        else:
            left, right = quietest(*near_start), quietest(*near_end)
        tags.append((0 if start == 0 else left, right))
        clip_start = right
    return tags


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 900), st.sampled_from([-1, 0, 1])), min_size=1, max_size=9),
    st.sampled_from([1000, 5000, 8000]),
    st.integers(0, 10**6),
)
@example([(True, 300, 0), (False, 350, 0), (True, 300, 0)], 5000, 0)  # a silence between 5 and 10 s inside the song
@example([(False, 400, -1), (True, 300, 0)], 8000, 0)  # a silent start shorter than the shortest segment
@settings(max_examples=300, deadline=None)
def test_every_rule_gives_what_an_independent_telling_gives(stretches, min_length_ms, seed):
    rng = np.random.default_rng(seed)
    rms = np.concatenate([
        (0.3 if loud else 0.005) * (1 + 0.5 * slope * np.linspace(-1, 1, n)) * rng.uniform(0.99, 1.0, n)
        for loud, n, slope in stretches  # falling loudness puts the quietest frame at a window's end
    ])  # fmt: skip
    min_length, n_samples = min_length_ms // 20, (len(rms) - 1) * 160 + 37
    tags = retold(rms, 0.01, min_length, 15, 250) if n_samples > min_length else []
    edges = [0, *(min(frame * 160, n_samples) for tag in tags for frame in tag), n_samples]
    wanted = [Segment(a, b, index % 2 == 0) for index, (a, b) in enumerate(pairwise(edges)) if b > a]
    assert slice_silence(rms, n_samples, 8000, min_length_ms=min_length_ms) == wanted


def test_a_middle_silence_of_five_to_ten_seconds_keeps_the_quietest_place_of_each_side():
    rms = np.full(950, 0.3)
    rms[300:650] = 0.005  # each side may keep 250 frames: 300-550 and 400-650 overlap in 400-550
    rms[320], rms[630], rms[470] = 0.002, 0.003, 0.004
    assert slice_silence(rms, 949 * 160, 8000) == [
        Segment(0, 320 * 160, True), Segment(320 * 160, 630 * 160, False), Segment(630 * 160, 949 * 160, True),
    ]  # fmt: skip
    rms[470] = 0.001  # the quietest of both sides: cut there, take nothing out
    assert slice_silence(rms, 949 * 160, 8000) == [Segment(0, 470 * 160, True), Segment(470 * 160, 949 * 160, True)]


@given(st.lists(st.integers(0, 700), min_size=1, max_size=12), st.sampled_from([8000, 11025, 44100]))
@settings(max_examples=40, deadline=None)
def test_the_meter_equals_librosa_whatever_the_block_sizes(sizes, rate):
    rng = np.random.default_rng(sum(sizes))
    wav = rng.standard_normal(sum(sizes) * 7 + 1).astype(np.float32)
    meter, position = RmsMeter(rate), 0
    for size in [*(size * 7 for size in sizes), 1]:
        meter.push(wav[position : position + size])
        position += size
    hop = slicer_hop(rate)
    wanted = librosa.feature.rms(y=wav, frame_length=4 * hop, hop_length=hop)[0]
    assert np.allclose(meter.finish(), wanted, atol=1e-6) and meter.n_samples == len(wav)


@given(st.lists(st.tuples(st.booleans(), st.floats(0.05, 13)), min_size=1, max_size=8), st.integers(0, 159))
@settings(max_examples=60, deadline=None)
def test_segments_cover_the_file_without_gap_or_overlap(stretches, extra):
    rng = np.random.default_rng(1)
    level = np.concatenate([np.full(int(s * 8000), 0.3 if loud else 1e-4) for loud, s in stretches] + [np.zeros(extra)])
    wav = (rng.standard_normal(len(level)) * level).astype(np.float32)
    segments = cut(wav, 8000)
    assert segments[0].start == 0 and segments[-1].end == len(wav)
    assert all(left.end == right.start for left, right in pairwise(segments))
    assert all(segment.end > segment.start for segment in segments)


def test_a_file_of_silence_is_one_silent_segment_and_a_loud_one_one_voiced():
    assert cut(np.zeros(80000, dtype=np.float32), 8000) == [Segment(0, 80000, False)]
    assert cut(np.full(80000, 0.5, dtype=np.float32), 8000) == [Segment(0, 80000, True)]
    assert cut(np.zeros(250, dtype=np.float32), 8000) == [Segment(0, 250, True)], (
        "so-vits-svc's comparison with samples"
    )
