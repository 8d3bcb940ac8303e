"""Pitch histograms against numpy's own statistics, and transpositions against what a musician would choose."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.errors import DataError
from modules.f0.histogram import (
    CENTRES,
    HIGHEST_MIDI,
    LOWEST_MIDI,
    MAX_SHIFT,
    N_BINS,
    PitchHistogram,
    choose_shift,
    describe_shift,
    note_name,
)


def of_notes(notes) -> PitchHistogram:
    notes = np.asarray(notes, np.float64)
    return PitchHistogram.from_curve(440 * 2 ** ((notes - 69) / 12), np.ones(len(notes)))


def singer(middle: float, spread: float = 3.0, n: int = 4000, seed: int = 0) -> PitchHistogram:
    """Notes around `middle`, like those of a song."""
    return of_notes(np.random.default_rng(seed).normal(middle, spread, n))


def moved(histogram: PitchHistogram, semitones: int) -> PitchHistogram:
    """The same notes higher; what was counted must stay within the bins."""
    return PitchHistogram(tuple(np.roll(histogram.counts, 2 * semitones).tolist()))


counts = st.dictionaries(st.integers(0, N_BINS - 1), st.integers(1, 10**6), max_size=12).map(
    lambda found: PitchHistogram(tuple(found.get(index, 0) for index in range(N_BINS)))
)


def test_each_frame_counts_for_the_nearest_half_semitone():
    found = of_notes([60, 60.2, 60.3, 59.8, 61])
    assert {note: count for note, count in zip(CENTRES, found.counts) if count} == {60: 3, 60.5: 1, 61: 1}
    assert found.frames == 5


def test_what_is_unvoiced_or_no_pitch_is_not_counted():
    f0 = np.array([440, 440, 0, -3, np.nan, np.inf, 220], np.float32)
    assert PitchHistogram.from_curve(f0, np.array([1, 0, 1, 1, 1, 1, 1])) == of_notes([69, 57])
    assert PitchHistogram.from_curve(np.zeros(0), np.zeros(0)) == PitchHistogram()


def test_notes_beyond_the_ends_count_for_the_outer_bins():
    found = of_notes([3, 130, 140])
    assert found.counts[0] == 1 and found.counts[-1] == 2 and found.frames == 3


def test_percentiles_are_those_of_numpy_within_a_bin():
    notes = np.random.default_rng(1).normal(62, 5, 5000)
    found = of_notes(notes)
    for percent in (0, 1, 10, 50, 90, 99, 100):
        # A bin is half a semitone wide, so that nothing in it is told apart better than that.
        assert found.percentile(percent) == pytest.approx(np.percentile(notes, percent), abs=0.5)


def test_a_single_note_is_its_own_median():
    assert of_notes([60] * 7).median == 60 and of_notes([69]).median == 69
    assert of_notes([60] * 7).percentile(0) == 59.75 and of_notes([60] * 7).percentile(100) == 60.25


def test_an_empty_histogram_has_no_median_and_no_range():
    empty = PitchHistogram()
    assert empty.frames == 0 and empty.median is empty.range is empty.percentile(1) is None


def test_clips_add_up():
    first, second = np.array([60, 61]), np.array([61, 72, 73])
    assert of_notes(first) + of_notes(second) == of_notes(np.concatenate([first, second]))
    assert of_notes(first) + PitchHistogram() == of_notes(first)


@pytest.mark.parametrize("midi, name", [(69, "A4"), (61, "C#4"), (60.4, "C4"), (59.5, "C4"), (24, "C1"), (-1, "B-2")])
def test_notes_have_their_usual_names(midi, name):
    assert note_name(midi) == name


@given(counts)
def test_what_is_written_as_json_is_read_back(histogram):
    assert PitchHistogram.from_plain(json.loads(json.dumps(histogram.to_plain())), "x") == histogram


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: None,
        lambda plain: [plain],
        lambda plain: {},
        lambda plain: {**plain, "lowest_midi": 0},
        lambda plain: {**plain, "bins_per_semitone": 3},
        lambda plain: {**plain, "bins_per_semitone": np.array([2, 2])},
        lambda plain: {**plain, "counts": plain["counts"][1:]},
        lambda plain: {**plain, "counts": dict(enumerate(plain["counts"]))},
        lambda plain: {**plain, "counts": [-1, *plain["counts"][1:]]},
        lambda plain: {**plain, "counts": [1.5, *plain["counts"][1:]]},
        lambda plain: {**plain, "counts": [True, *plain["counts"][1:]]},
        lambda plain: {**plain, "counts": [10**5000, *plain["counts"][1:]]},
        lambda plain: {**plain, "counts": ["x" * 1000, *plain["counts"][1:]]},
    ],
)
def test_what_is_no_histogram_is_refused_with_its_place(change):
    with pytest.raises(DataError, match=r"^some\.json, alto: ") as caught:
        PitchHistogram.from_plain(change(of_notes([60]).to_plain()), "some.json, alto")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("shift", range(-MAX_SHIFT, MAX_SHIFT + 1))
def test_a_voices_own_song_moved_by_k_is_moved_back_by_k(shift):
    voice = singer(63)
    assert choose_shift(moved(voice, shift), voice).semitones == -shift


@given(st.dictionaries(st.integers(48, N_BINS - 49), st.integers(1, 1000), min_size=1), st.integers(-24, 24))
def test_that_holds_for_voices_of_any_shape(found, shift):
    voice = PitchHistogram(tuple(found.get(index, 0) for index in range(N_BINS)))
    assert choose_shift(moved(voice, shift), voice).semitones == -shift


@settings(deadline=None)
@given(counts, counts, st.booleans())
def test_there_is_a_choice_within_bounds_for_any_two_histograms(song, voice, octaves_only):
    choice = choose_shift(song, voice, octaves_only)
    assert isinstance(choice.semitones, int) and -MAX_SHIFT <= choice.semitones <= MAX_SHIFT
    assert choice.semitones % 12 == 0 or not octaves_only
    assert 0 <= choice.outside <= 1 + 1e-9 and choice.reason and "\n" not in choice.reason
    assert (choice.warning is not None) == (choice.outside > 0.02)
    assert choice.warning is None or "it goes down to" in choice.warning or "it goes up to" in choice.warning
    if not song.frames or not voice.frames:
        assert choice.semitones == 0 and choice.warning is None


def test_a_mans_song_goes_up_to_a_womans_voice():
    man, woman = singer(53, seed=1), singer(64, seed=2)  # F3 and E4, the usual middles
    assert choose_shift(man, woman).semitones in (10, 11, 12)
    assert choose_shift(man, woman, octaves_only=True).semitones == 12
    assert choose_shift(woman, man).semitones in (-12, -11, -10)


def test_octaves_only_leaves_a_song_that_is_a_few_semitones_off():
    assert choose_shift(singer(68, seed=1), singer(64, seed=2), octaves_only=True).semitones == 0
    assert choose_shift(singer(79, seed=1), singer(64, seed=2), octaves_only=True).semitones == -12


@pytest.mark.parametrize("octaves_only", [False, True])
@pytest.mark.parametrize("direction", [-1, 1])
def test_a_song_three_octaves_off_is_still_drawn_towards_the_voice(direction, octaves_only):
    voice = of_notes([66 - direction * 18] * 100)
    song = of_notes([66 + direction * 18] * 100)
    assert choose_shift(song, voice, octaves_only).semitones == -direction * MAX_SHIFT


def test_a_voice_with_two_registers_is_not_entered_between_them():
    voice = singer(50, 1.5, seed=1) + singer(74, 1.5, n=1000, seed=2)
    song = singer(60, 1.5, seed=3)  # in the gap, ten semitones above the fuller register
    assert choose_shift(song, voice).semitones in (-11, -10, -9)


def test_equal_shifts_go_to_the_nearer_one():
    voice = of_notes([48] * 10 + [72] * 10)
    assert choose_shift(of_notes([58] * 5), voice).semitones == -10
    assert abs(choose_shift(of_notes([60] * 5), voice).semitones) == 12
    same = of_notes([60, 64, 67])
    assert choose_shift(same, same).semitones == 0


def test_the_reason_has_the_numbers():
    choice = choose_shift(of_notes([69] * 50), of_notes([57] * 50))
    assert choice.semitones == -12 and choice.outside == 0 and choice.warning is None
    assert choice.reason == (
        "transposed by -12: the song's median goes from A4 (440 Hz) to A3 (220 Hz), the voice's is A3 (220 Hz); "
        "100% of the song's notes are within the voice's range G#3 to A#3, 0% were before"
    )


def test_a_song_without_a_voice_stays_and_the_reason_says_so():
    choice = choose_shift(PitchHistogram(), singer(60))
    assert choice.semitones == 0 and "no pitch was found in the song" in choice.reason
    assert "the voice's pitch histogram is empty" in choose_shift(singer(60), PitchHistogram()).reason


def test_notes_outside_the_range_are_warned_of_and_named():
    voice = of_notes(np.linspace(55, 67, 1000))  # G3 to G4
    song = of_notes([60] * 90 + [48] * 4 + [79] * 6)
    choice = describe_shift(song, voice, 0)
    assert choice.outside == pytest.approx(0.1)
    assert "10% of the song is outside the voice's range F#3 to G#4: it goes down to C3 and up to G5" in choice.warning
    by_hand = describe_shift(song, voice, 3.5)
    assert "transposition +3.5" in by_hand.warning and by_hand.semitones == 3.5


def test_only_the_end_that_is_left_is_named():
    voice = of_notes(np.linspace(55, 67, 1000))
    warning = describe_shift(of_notes([60] * 95 + [79] * 5), voice, 0).warning
    assert "it goes up to G5," in warning and "down" not in warning


def test_a_few_stray_frames_are_no_reason_to_warn():
    voice = of_notes(np.linspace(55, 67, 1000))
    choice = describe_shift(of_notes([60] * 99 + [84]), voice, 0)
    assert choice.outside == pytest.approx(0.01) and choice.warning is None
    # 3 of 1000 frames an octave above: a mistake of the predictor; the highest note is the one that is held.
    mixed = describe_shift(of_notes([60] * 900 + [72] * 97 + [84] * 3), voice, 0)
    assert "up to C5" in mixed.warning


def test_a_shift_far_beyond_the_histogram_is_judged_too():
    choice = describe_shift(singer(60), singer(60), 60)
    assert choice.outside == pytest.approx(1) and "it goes up to" in choice.warning


def test_the_bins_span_what_their_ends_say():
    assert CENTRES[0] == LOWEST_MIDI and CENTRES[-1] == HIGHEST_MIDI and len(PitchHistogram().counts) == N_BINS
