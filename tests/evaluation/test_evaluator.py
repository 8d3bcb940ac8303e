"""Which parts of which recordings an evaluation reads."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from modules.errors import AudioError
from modules.evaluation.evaluator import evenly_spaced, find_parallel, read_excerpt, read_parallel, target_embedding

RATE = 8000


def tone(seconds: float) -> np.ndarray:
    return 0.3 * np.sin(np.arange(round(seconds * RATE)) / 3)


def save(path: Path, *parts: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.concatenate(parts), RATE)
    return path


def test_an_excerpt_begins_where_the_sound_does(tmp_path):
    path = save(tmp_path / "song.wav", np.zeros(3 * RATE), tone(6))
    cut = read_excerpt(path, 2.0)
    assert (cut.start, cut.seconds, cut.is_whole) == (3.0, 2.0, False)
    np.testing.assert_allclose(cut.wav, tone(2), atol=1e-4)
    whole = read_excerpt(path, 9.0)
    assert (whole.start, whole.seconds, whole.is_whole) == (0.0, 9.0, True)
    assert read_excerpt(path, 8.0).seconds == 6, "no more than there is"


def test_a_long_silence_has_no_excerpt(tmp_path):
    with pytest.raises(AudioError, match="silent throughout"):
        read_excerpt(save(tmp_path / "quiet.wav", np.zeros(4 * RATE)), 2.0)


def test_a_parallel_take_is_cut_like_its_source(tmp_path):
    source = save(tmp_path / "raw" / "song.flac", np.zeros(3 * RATE), tone(6))
    take = save(tmp_path / "takes" / "alto" / "day 1" / "song.wav", np.arange(9 * RATE) / (10 * RATE))
    save(tmp_path / "takes" / "alto" / "song.2.wav", tone(1))
    assert find_parallel(tmp_path / "takes", "alto", source) == take
    assert find_parallel(tmp_path / "takes", "tenor", source) is None
    wav, rate = read_parallel(take, read_excerpt(source, 2.0))
    assert rate == RATE and len(wav) == 2 * RATE and wav[0] == pytest.approx(0.3, abs=1e-3)
    assert len(read_parallel(take, read_excerpt(source, 60.0))[0]) == 9 * RATE
    with pytest.raises(AudioError, match="ends before 3 s"):
        read_parallel(save(tmp_path / "short.wav", tone(2)), read_excerpt(source, 2.0))


def test_clips_are_taken_from_all_over_the_list():
    paths = [Path(f"{number:03}.wav") for number in range(100)]
    assert [int(path.stem) for path in evenly_spaced(paths, 4)] == [0, 33, 66, 99]
    assert evenly_spaced(paths[:3], 8) == paths[:3]


def test_a_target_embedding_is_the_mean_of_its_clips(tmp_path, caplog):
    class Encoder:
        def embed(self, wav, rate):
            voice = torch.zeros(256)
            if wav.any():
                voice[int(10 * np.abs(wav).max() + 0.5)] = 1
            return voice

    save(tmp_path / "alto" / "1.wav", tone(1))
    save(tmp_path / "alto" / "2.wav", tone(1) * 2)
    save(tmp_path / "alto" / "3.wav", np.zeros(RATE))
    (tmp_path / "alto" / "4.wav").write_bytes(b"RIFFnothing")
    found = target_embedding(tmp_path, "alto", Encoder())
    assert found[3] == found[6] == pytest.approx(2**-0.5) and found.norm() == pytest.approx(1)
    assert "4.wav" in caplog.text
    assert target_embedding(tmp_path, "tenor", Encoder()) is None
