"""Single notes are judged by known sounds, ranges by made-up scores."""

import numpy as np
import pytest

from modules.contracts import F0
from modules.metrics.notes import NoteScore, find_range, harmonics_to_noise, judge_note, longest_run

RATE = 16000


def tone(hz: float, noise: float = 0.0) -> np.ndarray:
    times = np.arange(RATE // 2) / RATE
    wav = sum(np.sin(2 * np.pi * k * hz * times) / k for k in range(1, 9)) / 4
    return wav + noise * np.random.default_rng(0).standard_normal(len(times))


def scores(
    right: str, level: dict[int, float] | None = None, clarity: dict[int, float] | None = None
) -> list[NoteScore]:
    """A note for each letter from MIDI 48 on, `x` for a right one."""
    found = []
    for index, letter in enumerate(right):
        values = (level or {}).get(index, -10.0), (clarity or {}).get(index, 25.0)
        found.append(NoteScore(48 + index, (1.0, 1.0 if letter == "x" else 0.0), *values))
    return found


def curve(hz: float, n: int = 50) -> F0:
    return F0(np.full(n, hz, np.float32), np.ones(n, np.float32))


def test_white_noise_has_the_clarity_that_the_formula_says():
    noise = np.random.default_rng(1).standard_normal(RATE * 4)
    assert harmonics_to_noise(noise, RATE, 200.0) == pytest.approx(10 * np.log10(0.24 / 0.76), abs=0.3)


@pytest.mark.parametrize("hz", [65.4, 220.0, 1046.5])
def test_clarity_falls_as_noise_rises_and_a_pure_tone_has_much(hz):
    pure, little, much = (harmonics_to_noise(tone(hz, noise), RATE, hz) for noise in (0, 0.01, 0.1))
    assert pure > 45 and pure > little > much
    assert little - much == pytest.approx(20, abs=1.5), "ten times the noise"


def test_a_note_is_right_only_if_both_predictors_hear_it():
    wav, hz = tone(220), 220.0  # A3
    assert judge_note(wav, RATE, 57, [curve(hz), curve(hz * 2 ** (40 / 1200))]).is_right
    assert not judge_note(wav, RATE, 57, [curve(hz), curve(hz * 2 ** (60 / 1200))]).is_right
    assert not judge_note(wav, RATE, 57, [curve(hz), curve(hz / 2)]).is_right


def test_a_note_that_is_unvoiced_for_a_third_of_its_time_is_wrong():
    heard = curve(220)
    heard.uv[:17] = 0
    score = judge_note(tone(220), RATE, 57, [curve(220), heard])
    assert not score.is_right and score.shares == (1.0, pytest.approx(0.66))


def test_the_level_of_a_note_is_its_rms():
    assert judge_note(np.full(800, 0.1), RATE, 57, []).level_db == pytest.approx(-20, abs=0.01)


@pytest.mark.parametrize(
    "right, run",
    [
        ("..xxxx..", (2, 6)),
        ("xx.xx", (0, 5)),  # one dropout
        ("xx..xxx", (4, 7)),  # two
        ("x.xxx.x", (2, 5)),  # one right note before it does not hold
        ("xx.xx.xx", (0, 8)),
        (".xx.xx", (1, 6)),
    ],
)
def test_one_wrong_note_between_pairs_of_right_ones_does_not_end_a_run(right, run):
    assert longest_run([letter == "x" for letter in right]) == slice(*run)


@pytest.mark.parametrize("right", ["", "....", "x...x", "x"])
def test_single_right_notes_are_no_range(right):
    assert longest_run([letter == "x" for letter in right]) is None and find_range(scores(right)) is None


def test_a_voice_that_sings_all_alike_is_comfortable_everywhere():
    found = find_range(scores("..xxxxxxxx..."))
    assert found.sings == found.comfortable == (50, 57)


def test_quiet_and_noisy_ends_are_sung_but_not_comfortable():
    quiet, noisy = {0: -17.0, 1: -17.0, 2: -17.0}, {17: 18.0, 18: 18.0, 19: 18.0}
    found = find_range(scores("x" * 20, quiet, noisy))
    assert found.sings == (48, 67) and found.comfortable == (51, 64)


def test_a_single_weak_note_does_not_divide_the_comfortable_ones():
    assert find_range(scores("x" * 12, {6: -30.0})).comfortable == (48, 59)
