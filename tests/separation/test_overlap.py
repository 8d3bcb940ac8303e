"""Overlap-add: what a network gives back unchanged is the stream again, whatever the lengths."""

import numpy as np
import pytest

from modules.separation.overlap import make_window, overlap_add

SHAPES = [(100, 75, 50), (100, 50, 10), (100, 25, 10), (100, 33, 10), (100, 100, 10), (7, 3, 3)]  # segment, hop, fade
LENGTHS = (1, 5, 75, 76, 99, 100, 101, 175, 176, 1000, 1033)
shapes = pytest.mark.parametrize(("segment", "hop", "fade"), SHAPES)


def noise(length, channels=2):
    return np.random.default_rng(length).standard_normal((length, channels)).astype(np.float32)


def joined(wav, compute, segment, hop, fade, pieces=7, **options):
    blocks = np.array_split(wav, min(pieces, len(wav)))
    return np.concatenate(list(overlap_add(blocks, compute, make_window(segment, fade), hop, **options)))


@shapes
@pytest.mark.parametrize("batch", [1, 3])
def test_segments_that_come_back_unchanged_are_the_stream(segment, hop, fade, batch):
    for length in LENGTHS:
        wav = noise(length)
        out = joined(wav, lambda segments: segments, segment, hop, fade, batch=batch)
        assert out.shape == wav.shape
        assert np.abs(out - wav).max() < 1e-6  # float32: weights and their sums are rounded


@shapes
def test_every_segment_is_whole_and_holds_no_silence_behind_the_end(segment, hop, fade):
    for length in LENGTHS:
        seen = []

        def keep(segments, seen=seen):
            seen.extend(segment.copy() for segment in segments)
            return segments

        wav = np.ones((length, 1), np.float32)
        joined(wav, keep, segment, hop, fade)
        assert all(len(one) == segment for one in seen)
        assert length < segment or all(one.all() for one in seen)


@shapes
def test_going_on_from_any_hop_gives_the_same_samples(segment, hop, fade):
    def smear(segments):  # unlike from place to place in a segment
        return [np.cumsum(one, axis=0) for one in segments]

    for length in LENGTHS:
        wav = noise(length)
        whole = joined(wav, smear, segment, hop, fade)
        for start in range(0, length, hop * (1 + length // (9 * hop))):
            assert np.array_equal(joined(wav, smear, segment, hop, fade, start=start), whole[start:])


def test_the_size_of_blocks_and_of_batches_changes_nothing():
    wav, shape = noise(1033), (100, 33, 10)
    one = joined(wav, lambda segments: segments, *shape, pieces=1)
    for pieces, batch in ((1033, 1), (3, 4), (50, 100)):
        assert np.array_equal(joined(wav, lambda segments: segments, *shape, pieces=pieces, batch=batch), one)


def test_a_stream_without_samples_gives_none():
    assert list(overlap_add([], lambda segments: segments, make_window(10, 5), 5)) == []
    assert list(overlap_add([np.zeros((0, 2), np.float32)], lambda segments: segments, make_window(10, 5), 5)) == []
