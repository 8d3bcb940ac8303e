"""Where pieces lie: no sample is missing, none is put out twice, cuts fall where it is quiet."""

import math
from itertools import pairwise

import numpy as np
import pytest

from modules.audio.slicer import Segment
from modules.inference.chunks import Timeline, find_cuts, plan_pieces
from modules.inference.options import ConversionOptions

RATE, HOP = 8000, 160


@pytest.mark.parametrize("rates", [(8000, 44100), (44100, 44100), (96000, 44100), (44056, 32000)])
def test_lengths_on_the_timeline_add_up_exactly(rates):
    timeline = Timeline(*rates)
    marks = [0, 1, 17, 1000, 1001, 99_999, 3600 * rates[0] + 7]
    total = sum(timeline.length(a, b) for a, b in pairwise(marks))
    assert total == timeline.at(marks[-1]) == math.ceil(marks[-1] * rates[1] / rates[0])


def test_a_stretch_up_to_the_cap_is_one_piece_between_zeros():
    segment = Segment(100, 100 + 30 * RATE, True)
    (piece,) = plan_pieces(segment, RATE, ConversionOptions("alto"), np.ones(2000), HOP)
    assert (piece.start, piece.stop) == (piece.read_start, piece.read_stop) == (segment.start, segment.end)
    assert piece.pad_left == piece.pad_right == RATE // 2 and not piece.has_context


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


def test_capped_pieces_overlap_by_the_join_and_read_context():
    segment = Segment(1000, 1000 + 70 * RATE, True)
    rms = np.random.default_rng(0).random(80 * RATE // HOP)
    pieces = plan_pieces(segment, RATE, ConversionOptions("alto"), rms, HOP)
    assert pieces[0].start == segment.start and pieces[-1].stop == segment.end
    assert pieces[0].pad_left and pieces[-1].pad_right
    for left, right in pairwise(pieces):
        assert left.stop - right.start == 2 * int(RATE * 0.025)
        assert left.read_stop - left.stop >= 0.9 * RATE and right.start - right.read_start >= 0.9 * RATE
        assert not left.pad_right and not right.pad_left
        assert left.read_start <= right.read_start, "reading goes forward"


@pytest.mark.parametrize(("clip", "overlap"), [(1, 0), (1.3, 0.4), (2, 1.9), (100, 1)])
def test_forced_pieces_cover_the_stretch(clip, overlap):
    segment = Segment(500, 500 + int(7.77 * RATE), True)
    options = ConversionOptions("alto", clip_seconds=clip, overlap_seconds=overlap)
    pieces = plan_pieces(segment, RATE, options, np.ones(1000), HOP)
    assert pieces[0].start == segment.start and pieces[-1].stop == segment.end
    for left, right in pairwise(pieces):
        assert left.stop - right.start == int(overlap * RATE)
