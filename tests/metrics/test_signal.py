"""Measures against answers that are known beforehand, or found on another route."""

import math
from functools import cache

import numpy as np
import pytest
from signals import babble, sung

from modules.metrics.signal import (
    CEPSTRUM_AUDIO,
    N_CEPSTRA,
    bootstrap_interval,
    edit_distance,
    match_level,
    mel_cepstra,
    mel_cepstral_distance,
    split_words,
    warped_distance,
    word_error_rate,
)

RATE = CEPSTRUM_AUDIO.sampling_rate
DB_PER_COEFFICIENT = 10 / math.log(10) * math.sqrt(2)


def wandering_tone(seconds: float = 3.0) -> np.ndarray:
    """A tone whose level swings by 12 dB twice a second."""
    time = np.arange(round(seconds * RATE)) / RATE
    return 0.3 * np.sin(2 * np.pi * 220 * time) * 10 ** (6 * np.sin(2 * np.pi * 2 * time) / 20)


@pytest.mark.parametrize("gain_db", [-6.0, 0.0, 4.0])
def test_a_tone_so_much_quieter_is_so_many_db(gain_db):
    wav = wandering_tone()
    level_db, correlation = match_level(wav, (wav * 10 ** (gain_db / 20)).astype(np.float32), 256)
    assert level_db == pytest.approx(gain_db, abs=1e-3) and correlation == pytest.approx(1)


def test_only_the_sources_loudest_thirty_db_count_for_the_level():
    voice, rest = wandering_tone(), wandering_tone() * 10 ** (-50 / 20)
    level_db, correlation = match_level(np.append(voice, rest), np.append(voice / 2, rest * 100), 256)
    assert level_db == pytest.approx(-6.02, abs=0.01)
    assert correlation > 0.99
    # Longer results are cut, and a level that swings the other way is the opposite.
    assert match_level(voice, np.append(voice, rest), 256)[0] == pytest.approx(0, abs=0.01)
    assert match_level(voice, 0.01 * voice / (0.01 + np.abs(voice) ** 2), 256)[1] < 0


@pytest.mark.parametrize("source", [np.zeros(RATE), np.zeros(0)])
def test_silence_has_no_level_to_compare(source):
    assert all(math.isnan(value) for value in match_level(source, wandering_tone(1.0), 256))
    level_db, correlation = match_level(wandering_tone(1.0), np.zeros(RATE), 256)
    assert level_db < -60 and math.isnan(correlation)


def random_cepstra(n_frames: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((N_CEPSTRA, n_frames))


@pytest.mark.parametrize("coefficient", [1, 5, N_CEPSTRA])
def test_a_cosine_over_the_mel_bands_is_one_coefficient(coefficient):
    n_mels, amplitude = CEPSTRUM_AUDIO.n_mels, 0.7
    wave = np.cos(np.pi * coefficient * (np.arange(n_mels) + 0.5) / n_mels)
    before = np.random.default_rng(2).standard_normal((n_mels, 30))
    after = before + amplitude * wave[:, None] + 3.0  # 3 nepers louder, which is no difference
    change = mel_cepstra(after) - mel_cepstra(before)
    expected = np.zeros((N_CEPSTRA, 30))
    expected[coefficient - 1] = amplitude
    np.testing.assert_allclose(change, expected, atol=1e-12)
    # Frame by frame, the formula is also the RMS in dB of the spectra's difference without its mean.
    distance = DB_PER_COEFFICIENT * np.sqrt(np.square(change).sum(0))
    np.testing.assert_allclose(distance, 20 / math.log(10) * np.sqrt(np.mean((amplitude * wave) ** 2)))


def test_warping_finds_the_cheapest_path():
    a, b = random_cepstra(7, 1), random_cepstra(5, 2)

    @cache
    def cheapest(i: int, j: int) -> tuple[float, int]:
        here = math.dist(a[:, i], b[:, j])
        origins = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
        possible = [cheapest(*origin) for origin in origins if min(origin) >= 0]
        cost, length = min(possible) if possible else (0.0, 0)
        return cost + here, length + 1

    cost, length = cheapest(6, 4)
    assert warped_distance(a, b) == pytest.approx(DB_PER_COEFFICIENT * cost / length)


@pytest.mark.parametrize(("n", "m"), [(60, 45), (45, 60), (1, 9), (1, 1)])
def test_warping_agrees_with_librosa(n, m):
    from librosa.sequence import dtw

    a, b = random_cepstra(n, 3).cumsum(1), random_cepstra(m, 4).cumsum(1)
    costs, path = dtw(a, b)
    assert warped_distance(a, b) == pytest.approx(DB_PER_COEFFICIENT * costs[-1, -1] / len(path))


def test_a_slower_take_is_at_no_distance():
    a = random_cepstra(40, 5)
    assert warped_distance(a, np.repeat(a, 3, axis=1)) == 0
    shifted = a + 0.3 * (np.arange(N_CEPSTRA) == 2)[:, None]
    assert warped_distance(a, shifted) <= DB_PER_COEFFICIENT * 0.3 + 1e-9


def test_equal_takes_are_at_no_distance_whatever_their_level():
    wav = sung(np.full(RATE, 220.0), RATE) + babble(RATE)
    assert mel_cepstral_distance(wav, wav) == 0
    assert mel_cepstral_distance(wav, wav / 4) == pytest.approx(0, abs=0.02)  # 0.02 dB: the floor under the mel
    muffled = np.convolve(wav, np.ones(8) / 8, "same").astype(np.float32)
    assert mel_cepstral_distance(wav, muffled) > 1


def test_silence_around_a_take_does_not_count():
    wav, pause = sung(np.full(RATE, 220.0), RATE) + babble(RATE), np.zeros(RATE, np.float32)
    padded = np.concatenate([pause, wav, pause])
    assert mel_cepstral_distance(wav, padded) < 0.5  # not 0: windows that hang over the edges differ
    assert math.isnan(mel_cepstral_distance(wav, pause)) and math.isnan(mel_cepstral_distance(wav[:100], wav))


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("the cat sat on the mat", "the cat sat on the mat", 0),
        ("the cat sat on the mat", "The cat, sat: on the MAT!", 0),
        ("the cat sat on the mat", "the cat sat mat", 2 / 6),
        ("the cat sat on the mat", "the bat sat on a mat", 2 / 6),
        ("the cat sat on the mat", "", 1),
        ("yes", "no no no", 3),
        ("don't", "dont", 0),
        ("君の名は", "君の名に", 1 / 4),
        ("ﬁne café", "fine cafe\N{COMBINING ACUTE ACCENT}", 0),
        ("हिन्दी गीत", "हिन्दी गीत", 0),
    ],
)
def test_word_error_rates(reference, hypothesis, expected):
    assert word_error_rate(reference, hypothesis) == pytest.approx(expected)


def test_there_is_no_rate_without_reference_words():
    assert math.isnan(word_error_rate("... !", "words"))
    assert split_words("हिन्दी गीत") == ["हिन्दी", "गीत"]


@pytest.mark.parametrize("seed", range(5))
def test_edit_distance_is_that_of_its_definition(seed):
    generator = np.random.default_rng(seed)
    a, b = ([str(word) for word in generator.integers(4, size=size)] for size in generator.integers(1, 9, size=2))

    @cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    assert edit_distance(a, b) == distance(len(a), len(b))


def test_the_interval_holds_95_per_cent_of_the_means_of_draws_with_replacement():
    values = np.random.default_rng(3).exponential(size=30)
    found = bootstrap_interval(values.tolist())
    means = values[np.random.default_rng(1).integers(30, size=(20000, 30))].mean(1)
    assert found.mean == pytest.approx(values.mean())
    # The ends of 2000 draws are off by some hundredths of the standard error, 0.18 here.
    np.testing.assert_allclose(found[1:3], np.quantile(means, [0.025, 0.975]), atol=0.02)


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(4)
    intervals = [bootstrap_interval(generator.normal(5, 2, 30).tolist()) for _ in range(300)]
    covered = np.mean([interval.low <= 5 <= interval.high for interval in intervals])
    assert 0.89 < covered < 0.98  # 0.95, less a little for 30 values, give or take four standard errors of 300 trials


def test_too_few_values_have_no_interval_and_what_is_not_finite_does_not_count():
    assert bootstrap_interval([2.0, math.nan])[0] == 2 and math.isnan(bootstrap_interval([2.0])[1])
    assert bootstrap_interval([])[3] == 0 and math.isnan(bootstrap_interval([])[0])
    assert bootstrap_interval([1.0, 2.0, math.inf, 3.0]).count == 3
    assert bootstrap_interval([1.0, 2.0, 3.0]) == bootstrap_interval([1.0, 2.0, 3.0])
