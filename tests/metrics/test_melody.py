"""The figures that judge a conversion are themselves judged on curves whose answer is known."""

import math

import numpy as np
import pytest

from modules.config.audio import AudioSpec
from modules.contracts import F0
from modules.metrics.melody import draw_comparison, match_melody

AUDIO = AudioSpec(44100, 2048, 512, 2048, 80, 0.0, 22050.0)


def curve(f0, voiced=None):
    f0 = np.asarray(f0, dtype=np.float32)
    return F0(f0, np.ones_like(f0) if voiced is None else np.asarray(voiced, dtype=np.float32))


def melody(n_frames=400):
    return 220 * 2 ** (np.sin(np.arange(n_frames) / 30) / 2)


def test_a_melody_matches_itself_an_octave_up():
    match = match_melody(curve(melody()), curve(melody() * 2), 100.0)
    assert match.correlation == pytest.approx(1)
    assert match.transposition == pytest.approx(12, abs=1e-4)
    assert match.cents == pytest.approx(0, abs=0.01) == match.rmse_cents
    assert match.voiced_seconds == 4


def test_another_melody_does_not_match():
    other = 220 * 2 ** (np.cos(np.arange(400) / 30) / 2)
    assert abs(match_melody(curve(melody()), curve(other), 100.0).correlation) < 0.3


def test_a_steady_error_of_fifty_cents_in_half_of_the_frames_shows():
    wrong = melody()
    wrong[::2] *= 2 ** (100 / 1200)
    assert match_melody(curve(melody()), curve(wrong), 100.0).cents == pytest.approx(50, abs=1)


def test_only_frames_voiced_in_both_count():
    broken = melody()
    broken[100:] = 50
    voiced = np.arange(400) < 100
    match = match_melody(curve(melody()), curve(broken, voiced), 100.0)
    assert match.correlation == pytest.approx(1) and match.missed_voicing == pytest.approx(0.75)
    assert match.rmse_cents == pytest.approx(0, abs=0.01)


def test_false_and_missed_voicing_are_shares_of_what_the_source_is():
    sung, breath = np.arange(400) < 100, np.arange(400) >= 100  # a quarter, and the rest
    noise = match_melody(curve(melody(), sung), curve(melody()), 100.0)
    assert (noise.false_voicing, noise.missed_voicing) == (1, 0), "voiced wherever the source is noise"
    whispered = match_melody(curve(melody(), sung), curve(melody(), np.zeros(400)), 100.0)
    assert (whispered.false_voicing, whispered.missed_voicing) == (0, 1)
    mixed = match_melody(curve(melody(), sung), curve(melody(), np.arange(400) // 50 % 2), 100.0)
    assert (mixed.false_voicing, mixed.missed_voicing) == (0.5, 0.5)
    assert "false in 50 % of the source's unvoiced frames, missed in 50 % of its voiced ones" in str(mixed)
    assert math.isnan(match_melody(curve(melody()), curve(melody()), 100.0).false_voicing)
    assert math.isnan(match_melody(curve(melody(), breath & sung), curve(melody()), 100.0).missed_voicing)


def test_rmse_is_that_of_the_errors_around_their_median():
    errors = np.random.default_rng(1).normal(300, 40, 400)
    found = match_melody(curve(melody()), curve(melody() * 2 ** (errors / 1200)), 100.0).rmse_cents
    expected = math.sqrt(np.mean((errors - np.median(errors)) ** 2))
    assert found == pytest.approx(expected, rel=1e-3) and 35 < found < 45


def test_curves_of_unequal_length_are_cut():
    assert match_melody(curve(melody(300)), curve(melody(303)), 100.0).rmse_cents == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("n_frames", [0, 2])
def test_nothing_in_common_is_not_a_number_instead_of_a_crash(n_frames):
    match = match_melody(curve(melody(n_frames)), curve(melody(300)), 100.0)
    assert math.isnan(match.correlation) and math.isnan(match.rmse_cents)


def test_the_picture_is_a_png_and_is_not_left_half_written(tmp_path):
    time = np.arange(22050) / 44100
    wav = np.sin(2 * np.pi * 220 * time).astype(np.float32) * 0.5
    path = tmp_path / "картина.png"
    draw_comparison(
        path, {"source": wav, "result": wav}, {"source": curve(melody(43)), "result": curve([0] * 43)}, AUDIO, "x"
    )
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and len(list(tmp_path.iterdir())) == 1
