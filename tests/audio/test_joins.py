"""Cross-fades, forced pieces and loudness: goldens where there are some, invariants where not."""

from pathlib import Path

import librosa
import numpy as np
import pytest

from modules.audio.crossfade import crossfade, join_pieces, split_forced
from modules.audio.loudness import TRIM_HOP, centered_rms, keep_pauses, limit_peaks, loud_range, match_envelope

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
    signal = dsp["sig"]
    louder = (signal * np.linspace(0.04, 0.3, len(signal))).astype(np.float32)  # to the last digit
    found = match_envelope(louder, 44100, signal, 44100, float(ratio))[::64]
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


def tone(seconds: float, level: float, hz: float = 220.0) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hz * np.arange(int(seconds * 44100)) / 44100)).astype(np.float32)


@pytest.mark.parametrize("pause", [0.0, 10 ** (-64 / 20)])
def test_pauses_stay_as_quiet_as_they_were(pause):
    """A quarter of a second of pause, too short for the envelope; a model that hums in it."""
    quiet = noise(11025, 5) * pause
    source = np.concatenate([tone(1, 0.5), quiet, tone(1, 0.5)]).astype(np.float32)
    hum = np.concatenate([tone(1, 0.1), tone(0.25, 0.005), tone(1, 0.1)])
    followed = match_envelope(hum, 44100, source, 44100, 0.0)
    inside = slice(44100 + 1500, 44100 + 11025 - 1500)
    assert level(followed[inside]) > 10 ** (-50 / 20), "without the gate it hums on"
    gated = keep_pauses(followed, 44100, source, 0.0, 0.01)
    assert level(gated[inside]) <= 1.2 * pause
    assert np.array_equal(gated[:44100], followed[:44100]) and np.array_equal(gated[-44100:], followed[-44100:])
    half = keep_pauses(followed, 44100, source, 0.5, 0.01)
    assert level(gated[inside]) <= level(half[inside]) <= level(followed[inside])


def test_a_result_that_is_quieter_than_the_pause_stays_as_it_is():
    source = np.concatenate([tone(1, 0.5), noise(22050, 5) * 0.002]).astype(np.float32)
    assert keep_pauses(source * 0.5, 44100, source, 0.0, 0.01) == pytest.approx(source * 0.5)


@pytest.mark.parametrize("seed", range(5))
def test_peaks_are_turned_down_and_the_rest_left_alone(seed):
    wav = noise(44100, seed) * 0.2
    wav[[0, 9000, 9100, 30000, 44099]] = [1.5, -2.0, 1.2, 1.01, -1.3]
    limited = limit_peaks(wav, 44100)
    assert np.abs(limited).max() <= 0.98 + 1e-6
    assert np.array_equal(limited[10000:29000], wav[10000:29000])
    changed = np.divide(limited, wav, out=np.ones_like(wav), where=wav != 0)
    assert np.abs(np.diff(changed)).max() < 0.01, "no steps"


def test_what_does_not_clip_is_not_touched():
    wav = np.array([0.5, 1.0, -1.0], np.float32)
    assert limit_peaks(wav, 44100) is wav
    assert limit_peaks(np.zeros(0, np.float32), 44100).shape == (0,)


def test_nothing_to_trim_stays_nothing():
    assert loud_range(centered_rms(np.zeros(0, np.float32), TRIM_HOP, 4), 0) == (0, 0)
