"""Where chunks lie: no sample is missing, none is put out twice, cuts fall where it is quiet."""

from itertools import pairwise

import numpy as np
import pytest

from modules.audio.slicer import Segment
from modules.inference.chunks import find_cuts, plan_chunks, unfinished
from modules.inference.options import ConversionOptions
from modules.inference.stream import Song

RATE, HOP = 8000, 160


def song_of(seconds: float) -> Song:
    """Noise without a pause, whose loudness wanders."""
    loudness = 1.1 + np.sin(np.arange(int(seconds * RATE)) / RATE)
    wav = loudness * np.random.default_rng(0).uniform(-1, 1, len(loudness))
    return Song.from_array(wav.astype(np.float32), RATE, RATE)


def test_a_segment_up_to_the_cap_is_one_chunk_between_zeros():
    (chunk,) = plan_chunks(song_of(30), ConversionOptions("alto"))
    assert (chunk.start, chunk.stop) == (chunk.read_start, chunk.read_stop) == (0, 30 * RATE)
    assert chunk.pad_left == chunk.pad_right == RATE // 2 and not chunk.has_context


def test_cuts_fall_on_the_quietest_frames():
    rms = np.full(100 * RATE // HOP, 0.5)
    rms[25 * RATE // HOP] = rms[47 * RATE // HOP] = rms[70 * RATE // HOP] = 0.1
    cuts = find_cuts(Segment(0, 100 * RATE, True), 30 * RATE, rms, HOP)
    assert cuts == [25 * RATE, 47 * RATE, 70 * RATE]


@pytest.mark.parametrize("seconds", [30.01, 31, 45, 60, 61, 123.4])
@pytest.mark.parametrize("kind", ["flat", "noise", "falling", "rising"])
def test_no_part_exceeds_the_cap_and_none_is_tiny(seconds, kind):
    n_frames = int(seconds * RATE) // HOP + 1
    curves = {
        "flat": np.ones(n_frames),
        "noise": np.random.default_rng(0).random(n_frames),
        "falling": np.linspace(1, 0, n_frames),
        "rising": np.linspace(0, 1, n_frames),
    }
    segment = Segment(0, int(seconds * RATE), True)
    edges = [0, *find_cuts(segment, 30 * RATE, curves[kind], HOP), segment.end]
    lengths = np.diff(edges) / RATE
    assert lengths.max() <= 30
    assert lengths.min() >= 7.4


def test_capped_chunks_overlap_by_the_join_and_read_context():
    chunks = plan_chunks(song_of(70), ConversionOptions("alto"))
    assert chunks[0].start == 0 and chunks[-1].stop == 70 * RATE and len(chunks) >= 3
    assert chunks[0].pad_left and chunks[-1].pad_right
    for left, right in pairwise(chunks):
        assert left.fade_start == right.start and left.stop - right.start == 2 * int(RATE * 0.025)
        assert left.read_stop - left.stop >= 0.9 * RATE and right.start - right.read_start >= 0.9 * RATE
        assert not left.pad_right and not right.pad_left
        assert left.read_start <= right.read_start, "reading goes forward"


@pytest.mark.parametrize(("clip", "overlap"), [(1, 0), (1.3, 0.4), (2, 1.9), (100, 1)])
def test_forced_chunks_cover_the_segment(clip, overlap):
    options = ConversionOptions("alto", clip_seconds=clip, overlap_seconds=overlap)
    chunks = plan_chunks(song_of(7.77), options)
    assert chunks[0].start == 0 and chunks[-1].stop == chunks[-1].fade_start == int(7.77 * RATE)
    for left, right in pairwise(chunks):
        assert left.fade_start == right.start and left.stop - right.start == int(overlap * RATE)


@pytest.mark.parametrize("overlap", [0, 0.4])
def test_of_a_song_half_done_the_rest_is_left(overlap):
    song = song_of(8)
    chunks = plan_chunks(song, ConversionOptions("alto", clip_seconds=1.3, overlap_seconds=overlap))
    assert unfinished(chunks, song, 0) == chunks
    assert unfinished(chunks, song, chunks[2].fade_start - 1) == chunks[1 if overlap else 2 :]
    assert unfinished(chunks, song, chunks[2].fade_start) == chunks[2 if overlap else 3 :], "its end is still joined"
    assert unfinished(chunks, song, song.n_samples) == []
