"""Segments against so-vits-svc's own cuts, against librosa's loudness, and by what no slicer may do."""

import json
from itertools import pairwise
from pathlib import Path

import librosa
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.audio.slicer import RmsMeter, Segment, slice_silence, slicer_hop

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"


def measure(wav, rate):
    meter = RmsMeter(rate)
    meter.push(wav)
    return meter.finish()


def cut(wav, rate, threshold_db=-40, min_length_ms=5000):
    return slice_silence(measure(wav, rate), len(wav), rate, threshold_db, min_length_ms)


@pytest.mark.parametrize("name", "abcd")
def test_cuts_of_the_four_synthetic_clips_equal_the_goldens(name):
    wav = np.load(GOLDENS / "tiny" / f"slicer_{name}.npz")["wav16"].astype(np.float32) / 32768
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


def test_a_middle_silence_of_five_to_ten_seconds_keeps_the_quietest_place_of_each_side():
    rate, hop = 8000, 160
    rng = np.random.default_rng(0)
    level = np.concatenate([np.full(6 * rate, 0.3), np.full(7 * rate, 0.002), np.full(6 * rate, 0.3)])
    wav = (rng.standard_normal(len(level)) * level).astype(np.float32)
    # Silence runs from frame 300 to 650; both sides may keep 250 frames. The quietest place overall lies between.
    for quiet_at, expected in ((320, "before"), (500, "between"), (630, "after")):
        clip = wav.copy()
        clip[quiet_at * hop - 2 * hop : quiet_at * hop + 2 * hop] = 0
        first, *_, last = segments = cut(clip, rate)
        silent = [segment for segment in segments if not segment.voiced]
        assert len(silent) <= 1 and first.voiced and last.voiced
        left, right = first.end // hop, last.start // hop
        rms = measure(clip, rate)
        keep = 250
        wanted_left = 300 + int(np.argmin(rms[300 : 300 + keep])) if expected != "after" else None
        if expected == "between":
            assert left == right == quiet_at
        elif expected == "before":
            assert left == quiet_at == wanted_left and right >= left
        else:
            assert right == quiet_at and left <= right


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
