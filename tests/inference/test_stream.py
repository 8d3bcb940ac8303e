"""Reading twice, forward only, holding little."""

import numpy as np
import pytest

from modules.errors import AudioError
from modules.inference.stream import Source, Window, array_source, survey


def blocks_source(wav: np.ndarray, size: int) -> Source:
    return Source("clip", 8000, len(wav) / 8000, lambda: (wav[at : at + size] for at in range(0, len(wav), size)))


@pytest.mark.parametrize("size", [1, 7, 100, 1000])
def test_ascending_ranges_are_read_as_they_are(size):
    wav = np.arange(1000, dtype=np.float32)
    window = Window(blocks_source(wav, size))
    for start, stop in [(0, 0), (3, 20), (10, 40), (10, 41), (500, 600), (600, 1000)]:
        assert np.array_equal(window.read(start, stop), wav[start:stop])


def test_only_what_is_needed_is_held():
    wav = np.zeros(100_000, np.float32)
    window = Window(blocks_source(wav, 100))
    window.read(0, 100)
    window.read(90_000, 90_500)
    assert sum(len(block) for block in window._held) <= 600


def test_a_source_that_shrinks_is_refused():
    with pytest.raises(AudioError, match="ended early"):
        Window(array_source(np.zeros(100, np.float32), 8000)).read(0, 101)


def test_the_gain_is_applied_to_what_is_read():
    window = Window(array_source(np.full(100, 2.0, np.float32), 8000), gain=0.5)
    assert np.array_equal(window.read(10, 20), np.ones(10, np.float32))


def test_the_survey_counts_and_measures():
    wav = np.concatenate([np.zeros(8000), np.full(8000, 4.0)]).astype(np.float32)
    found = survey(array_source(wav, 8000))
    assert found.n_samples == 16000 and found.gain == 0.25
    assert found.rms_hop == 160 and len(found.rms) in (100, 101)
    assert found.rms[10] == 0 and found.rms[75] == pytest.approx(1.0)


def test_nothing_to_read_is_refused():
    with pytest.raises(AudioError, match="no audio"):
        survey(Source("clip", 8000, 0.0, lambda: iter(())))
