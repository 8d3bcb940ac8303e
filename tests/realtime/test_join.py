"""Blocks are joined where the next one continues the last one best."""

import numpy as np

from modules.realtime.join import Joiner, find_offset

RATE = 8000


def tone(start: int, stop: int, hz: float = 200.0) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(start, stop) / RATE).astype(np.float32)


def test_the_place_that_continues_the_tail_is_found():
    song = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    tail = song[300:400]
    for shift in (-20, -7, 20):
        assert find_offset(tail, song[300 - 20 + shift : 400 + 20 + shift]) == 20 - shift


def test_a_block_stays_where_it_was_heard_when_another_place_is_hardly_better():
    wav = tone(0, 140, hz=5.0)  # so slow that its neighbours are as good
    assert find_offset(wav[21:121], wav) == 20


def test_a_silent_tail_moves_nothing():
    assert find_offset(np.zeros(100, np.float32), tone(0, 140)) == 20


def test_blocks_of_one_song_give_that_song():
    song = np.random.default_rng(1).standard_normal(2000).astype(np.float32)
    joiner, out = Joiner(400, 80, 20), []
    for start in range(20, 1420, 400):
        out.append(joiner(song[start - 20 : start + 400 + 80 + 20]))
    joined = np.concatenate(out)
    np.testing.assert_allclose(joined[80:], song[100 : 20 + len(joined)], atol=1e-5)
    assert np.abs(joined[:40]).max() < np.abs(song[20:60]).max(), "the first block rises from silence"


def test_a_tone_whose_phase_jumps_is_joined_without_a_step():
    joiner = Joiner(400, 80, 20)
    first = joiner(tone(-20, 500))
    second = joiner(tone(400 - 20 + 13, 900 + 13))  # a third of a period too early
    joined = np.concatenate([first[80:], second])
    assert np.abs(np.diff(joined)).max() < 1.05 * np.abs(np.diff(tone(0, 400))).max()


def test_a_block_that_may_not_shift_lies_in_the_middle():
    joiner = Joiner(400, 80, 20)
    joiner(tone(-20, 500))
    moved = tone(400 - 20 + 13, 900 + 13)
    np.testing.assert_array_equal(joiner(moved, may_shift=False)[80:], moved[100:420])
