"""Frames of a stream: the same ones whatever the blocks, each where it belongs."""

import numpy as np
import pytest

from modules.doctor.framing import Framer


@pytest.mark.parametrize("length, hop", [(7, 7), (8, 3), (5, 2.25), (3, 8)])
@pytest.mark.parametrize("block", [1, 4, 11, 100])
def test_frames_start_at_multiples_of_the_hop_whatever_the_blocks(length, hop, block):
    wav = np.arange(100, dtype=np.float32)
    framer = Framer(length, hop)
    frames = np.concatenate([framer.push(wav[start : start + block]) for start in range(0, 100, block)])
    starts = [start for start in (round(index * hop) for index in range(100)) if start + length <= 100]
    assert np.array_equal(frames, [wav[start : start + length] for start in starts])
