"""Cross-fades, forced pieces and loudness: goldens where there are some, invariants where not."""

from pathlib import Path

import librosa
import numpy as np
import pytest

from modules.audio.crossfade import crossfade, join_pieces, split_forced
from modules.audio.loudness import TRIM_HOP, centered_rms, loud_range, match_envelope

GOLDENS = Path(__file__).resolve().parent.parent / "goldens" / "rule"


def noise(n_samples, seed=0):
    return np.random.default_rng(seed).standard_normal(n_samples).astype(np.float32) * 0.2


def level(wav):
    return float(np.sqrt(np.mean(wav.astype(np.float64) ** 2)))


def test_forced_pieces_lie_where_the_golden_says():
    golden = np.load(GOLDENS / "slicer.npz")
    spans = split_forced(1000, 300, 50)
    assert [end - start for start, end in spans] == golden["split_1000_300_50_len"].tolist()
    assert [start for start, _ in spans] == golden["split_1000_300_50_first"].tolist()


@pytest.mark.parametrize("retain", [0.01, 0.3, 0.75, 1.0])
@pytest.mark.parametrize("overlap", [1, 2, 49, 50])
def test_cross_fading_pieces_of_x_gives_x(retain, overlap):
    wav = noise(1000)
    joined = np.zeros(0, dtype=np.float32)
    for start, end in split_forced(len(wav), 300, overlap):
        piece = wav[start:end]
        if len(joined):
            middle = crossfade(joined[-overlap:], piece[:overlap], overlap, retain)
            assert len(middle) == overlap
            joined = np.concatenate([joined[:-overlap], middle, piece[overlap:]])
        else:
            joined = piece
    assert np.allclose(joined, wav, atol=1e-6)


def test_the_ramp_fills_only_the_retained_middle():
    zeros, ones = np.zeros(8, dtype=np.float32), np.ones(8, dtype=np.float32)
    assert crossfade(zeros, ones, 8, 0.5).tolist() == [0, 0, 0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1, 1, 1]
    assert crossfade(zeros, ones, 8, 1.0)[[0, -1]].tolist() == [0, 1]


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9, 1.0])
def test_a_join_keeps_the_level_however_alike_its_sides_are(correlation):
    left, other = noise(200_000, 1), noise(200_000, 2)
    right = correlation * left + np.sqrt(1 - correlation**2) * other
    joined = join_pieces(left, right)
    for part in np.array_split(joined, 8):
        assert level(part) == pytest.approx(0.2, rel=0.05)


def test_a_plain_linear_ramp_would_dip_on_unrelated_sides():
    left, right = noise(200_000, 1), noise(200_000, 2)
    middle = slice(90_000, 110_000)
    assert level(crossfade(left, right, len(left), 1.0)[middle]) < 0.8 * level(join_pieces(left, right)[middle])


def test_joining_silence_or_nothing_is_silence_or_nothing():
    assert not join_pieces(np.zeros(5, dtype=np.float32), np.zeros(5, dtype=np.float32)).any()
    assert join_pieces(np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.float32)).shape == (0,)


@pytest.mark.parametrize("ratio", ["0.0", "0.25", "0.5", "0.9"])
def test_loudness_matching_equals_the_goldens(ratio):
    golden = np.load(GOLDENS / "loudness_resample.npz")
    source, out = (golden[key].astype(np.float32) / 32768 for key in ("in_src_int16", "in_out_int16"))
    found = match_envelope(out, 44100, source, 44100, float(ratio))[::7]
    assert np.allclose(found, golden[f"change_rms_{ratio}_decim7"], atol=1e-5)


@pytest.mark.parametrize("ratio", ["0.0", "0.5"])
def test_loudness_matching_equals_the_goldens_of_the_synthetic_signal(ratio):
    dsp = np.load(GOLDENS.parent / "tiny" / "dsp.npz")
    found = match_envelope(dsp["rms_in2"], 44100, dsp["sig"], 44100, float(ratio))[::64]
    assert np.allclose(found, dsp[f"rms_out_{ratio}_every64"], atol=1e-5)


def test_ratio_one_keeps_the_result_and_zero_follows_the_source():
    source = np.concatenate([noise(44100) * 0.1, noise(44100, 1)])
    out = noise(88200, 2)
    assert np.allclose(match_envelope(out, 44100, source, 44100, 1.0), out, atol=1e-6)
    followed = match_envelope(out, 44100, source, 44100, 0.0)
    assert level(followed[:11025]) < 0.3 * level(followed[-11025:])


@pytest.mark.parametrize("lead", [0, 5000, 44100])
def test_trimming_equals_librosa(lead):
    wav = np.concatenate([noise(lead, 3) * 1e-4, noise(30000), noise(7000, 4) * 1e-4]).astype(np.float32)
    _, wanted = librosa.effects.trim(wav, top_db=40)
    assert loud_range(centered_rms(wav, TRIM_HOP, 4), len(wav)) == tuple(wanted)


def test_nothing_to_trim_stays_nothing():
    assert loud_range(centered_rms(np.zeros(0, np.float32), TRIM_HOP, 4), 0) == (0, 0)
