"""Samples of any number and rate become blocks, and none is lost."""

import numpy as np
import pytest

from modules.realtime.blocks import BlockQueue, BlockTimes, StreamResampler


def test_blocks_hold_all_samples_in_order():
    queue, out, song = BlockQueue(100), [], np.arange(1037, dtype=np.float32)
    for part in np.split(song, [3, 250, 251, 900]):
        out += list(queue.push(part))
    assert {len(block) for block in out} == {100}
    np.testing.assert_array_equal(np.concatenate(out), song[:1000])


@pytest.mark.parametrize(("from_rate", "to_rate"), [(48000, 44100), (44100, 44100), (16000, 44100)])
def test_a_stream_at_another_rate_is_as_long_as_it_should_be(from_rate, to_rate):
    stream = StreamResampler(from_rate, to_rate)
    tone = np.sin(2 * np.pi * 440 * np.arange(2 * from_rate) / from_rate).astype(np.float32)
    out = np.concatenate([stream(part) for part in np.array_split(tone, 97)])
    assert len(out) + round(stream.held_seconds * to_rate) == 2 * to_rate
    assert stream.held_seconds < 0.012
    expected = np.sin(2 * np.pi * 440 * np.arange(len(out)) / to_rate)
    np.testing.assert_allclose(out[2000:-2000], expected[2000:-2000], atol=2e-3)


def test_times_name_the_middle_the_worst_and_what_was_missed():
    times = BlockTimes(0.5, work=[0.1] * 18 + [0.2, 0.6], latency=[0.7] * 20, n_silent=3)
    text = str(times)
    assert "20 blocks of 500 ms: p50 100 ms" in text and "worst 600 ms" in text
    assert "latency 700 ms" in text and "1 missed" in text and "3 silent" in text
    assert "no block" in str(BlockTimes(0.5)) and "clipped" not in text
    assert "5 samples clipped" in str(BlockTimes(0.5, n_clipped=5))
