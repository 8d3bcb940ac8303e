"""What is said about a doubtful pitch: how long, which notes, and flags that mend it."""

import numpy as np
import pytest

from modules.errors import UsageError
from modules.f0.doubt import PitchDoubt
from modules.f0.limits import check_limits


def doubt(heard: float, found: float, n: int = 50) -> PitchDoubt:
    made, frames = PitchDoubt(), np.zeros(200)
    frames[60 : 60 + n] = heard
    made.add(np.where(frames > 0, found, 150.0), frames, 0.01, start=3.0)
    return made


def test_no_doubt_and_a_moment_of_it_are_not_worth_a_word():
    made = PitchDoubt()
    made.add(np.full(9, 200.0), np.zeros(9), 0.01)
    made.add(np.full(9, 200.0), None, 0.01)
    assert made.describe("pm", 50, 1100) is None
    assert doubt(110.0, 220.0, n=20).describe("pm", 50, 1100) is None


def test_it_knows_where_in_the_song_it_is():
    made = doubt(110.0, 220.0)
    assert (round(made.first, 6), round(made.last, 6), round(made.seconds, 6)) == (3.6, 4.1, 0.5)


@pytest.mark.parametrize(
    "heard, found, predictor, what, flags",
    [
        (110.0, 220.0, "fcpe", "fcpe hears A3 (220 Hz) where the sound has A2 (110 Hz)", {"predictor": "pm"}),
        (110.0, 220.0, "pm", "pm hears A3 (220 Hz) where the sound has A2 (110 Hz)", {"predictor": "harvest"}),
        (1568.0, 784.0, "pm", "notes of up to G6 (1568 Hz) lie above what pm looks for", {"--f0_max": "1700"}),
        (1568.0, 0.0, "fcpe", "notes of up to G6 (1568 Hz)", {"--f0_max": "1700", "predictor": "pm"}),
        (44.0, 88.0, "dio", "notes down to F1 (44 Hz) lie below what dio looks for", {"--f0_min": "39"}),
        (1050.0, 0.0, "fcpe", "fcpe hears nothing where the sound has C6 (1050 Hz)", {"predictor": "pm"}),
    ],
)
def test_each_kind_has_its_words_and_its_remedy(heard, found, predictor, what, flags):
    text, remedy = doubt(heard, found).describe(predictor, 50.0, 1100.0)
    assert what in text and remedy == flags


@pytest.mark.parametrize("limits", [(50, 3000), (10, 1100), (500, 1100), (50, 300), (float("nan"), 1100)])
def test_limits_that_no_predictor_has_are_refused(limits):
    with pytest.raises(UsageError, match=r"--f0_min .* and --f0_max .*: expected 36 to 400 Hz and 400 to 2000 Hz"):
        check_limits(*limits)
    check_limits(40.0, 2000.0)
