"""The range of a voice in words, on cards, and in place of a histogram."""

import numpy as np
import pytest

from modules.errors import DataError
from modules.f0.histogram import PitchHistogram, choose_shift
from modules.f0.voice_range import VoiceRange, ranges_on

KNOWN = VoiceRange((41, 81), (45, 76), "2026-12-01", ("fcpe", "pm"), "alto.wav")


def test_a_range_in_words_names_notes_day_and_predictors():
    assert str(KNOWN) == "comfortable A2-E5, sings F2-A5 (measured 2026-12-01 by fcpe, pm)"


def test_a_range_survives_a_card_and_damaged_ones_are_left_out():
    damaged = {"sings": [41, 81], "comfortable": [45, 90]}
    card = {"ranges": {"alto": KNOWN.to_plain(), "bass": {**KNOWN.to_plain(), **damaged}, "tenor": 5}}
    assert ranges_on(card) == {"alto": KNOWN}
    assert ranges_on({}) == ranges_on({"ranges": "all"}) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"sings": [81, 41]},
        {"sings": [41]},
        {"comfortable": [45.0, 76]},
        {"comfortable": [True, 76]},
        {"measured": "yesterday"},
        {"measured": None},
        {"predictors": "pm"},
        {"predictors": [1]},
        {"vowel": None},
        {"sings": [-(10**9), 10**9]},
    ],
)
def test_what_is_no_range_is_refused_with_the_command_that_measures_it(change):
    with pytest.raises(DataError, match=r"alto: .*evaluate\.py --range --card"):
        VoiceRange.from_plain({**KNOWN.to_plain(), **change}, "alto")


def test_a_song_is_brought_into_the_middle_of_a_measured_range():
    notes = np.repeat([57.0, 59, 60, 62, 64], 100)  # around C4
    song = PitchHistogram.from_curve(440 * 2 ** ((notes - 69) / 12), np.ones(len(notes)))
    low = VoiceRange((36, 60), (38, 58), "2026-12-01", ("pm",), "x").as_histogram()
    shift = choose_shift(song, low).semitones
    assert abs(song.median + shift - 48) <= 1
    assert low.range[0] == pytest.approx(37, abs=0.6) and low.range[1] == pytest.approx(59, abs=0.6)
