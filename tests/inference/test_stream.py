"""Reading twice, forward only, holding little."""

import math
from itertools import pairwise

import numpy as np
import pytest
import soundfile

from modules.errors import AudioError
from modules.inference.stream import Song


def blocks_song(wav: np.ndarray, size: int) -> Song:
    return Song("clip", 8000, 44100, lambda: (wav[at : at + size] for at in range(0, len(wav), size)))


@pytest.mark.parametrize("size", [1, 7, 100, 1000])
def test_ascending_ranges_are_read_as_they_are(size):
    wav = np.linspace(-1, 1, 1000, dtype=np.float32)
    song = blocks_song(wav, size)
    for start, stop in [(0, 0), (3, 20), (10, 40), (10, 41), (500, 600), (600, 1000)]:
        assert np.array_equal(song.read(start, stop), wav[start:stop])


def test_only_what_is_needed_is_held():
    song = blocks_song(np.zeros(100_000, np.float32), 100)
    song.read(0, 100)
    song.read(90_000, 90_500)
    assert sum(len(block) for block in song._held) <= 600


def test_a_song_that_shrinks_is_refused():
    with pytest.raises(AudioError, match="ended early"):
        Song.from_array(np.zeros(100, np.float32), 8000, 8000).read(0, 101)


def test_a_song_is_counted_measured_and_brought_to_full_scale():
    wav = np.concatenate([np.zeros(8000), np.tile([4.0, -4.0], 4000)]).astype(np.float32)
    song = Song.from_array(wav, 8000, 8000)
    assert song.n_samples == 16000 and song.seconds == 2 and song.gain == 0.25
    assert song.rms_hop == 160 and len(song.rms) in (100, 101)
    assert song.rms[10] == 0 and song.rms[75] == pytest.approx(1.0)
    assert np.array_equal(song.read(8010, 8020), np.tile(np.float32([1, -1]), 5))


def test_nothing_to_read_is_refused():
    with pytest.raises(AudioError, match="no audio"):
        Song("clip", 8000, 8000, lambda: iter(()))


@pytest.mark.parametrize("rates", [(8000, 44100), (44100, 44100), (96000, 44100), (44056, 32000)])
def test_lengths_of_output_add_up_exactly(rates):
    song = Song.from_array(np.zeros(1, np.float32), *rates)
    marks = [0, 1, 17, 1000, 1001, 99_999, 3600 * rates[0] + 7]
    total = sum(song.at(b) - song.at(a) for a, b in pairwise(marks))
    assert total == song.at(marks[-1]) == math.ceil(marks[-1] * rates[1] / rates[0])


def test_what_is_unusual_about_a_file_is_noted(tmp_path):
    wav = np.random.default_rng(0).standard_normal(16000).astype(np.float32) * 0.1
    soundfile.write(tmp_path / "plain.wav", np.stack([wav, wav], axis=1), 8000, "FLOAT")
    soundfile.write(tmp_path / "opposite.wav", np.stack([wav, -wav], axis=1), 8000, "FLOAT")
    assert Song.from_file(tmp_path / "plain.wav", 8000).notes == ()
    song = Song.from_file(tmp_path / "opposite.wav", 8000)
    assert "its channels cancel each other" in song.notes[0] and np.array_equal(song.read(0, 16000), wav)
    joined = tmp_path / "joined.flac"
    soundfile.write(joined, wav, 8000)
    data = joined.read_bytes()
    joined.write_bytes(data + data)
    assert Song.from_file(joined, 8000).n_samples == 32000 and "are joined" in Song.from_file(joined, 8000).notes[0]


@pytest.mark.parametrize("offset", [0.6, -0.02, 0.009, 0.0])
def test_a_constant_offset_is_taken_out_where_it_matters(offset):
    wav = np.random.default_rng(0).standard_normal(16000).astype(np.float32) * 0.1
    wav[4000:8000] = 0
    wav -= wav.mean(dtype=np.float64)
    moved = (wav + offset).astype(np.float32)
    song = Song.from_array(moved, 8000, 8000)
    if abs(offset) > 0.01:
        assert np.allclose(song.read(0, 16000), wav, atol=1e-5) and f"offset of {offset:.2f}" in song.notes[0]
        assert song.rms[37] < 1e-3 and song.gain == 1
    else:
        assert np.array_equal(song.read(0, 16000), moved) and song.notes == ()
