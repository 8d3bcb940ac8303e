"""What numbers mean in words, at both sides of every threshold."""

import math

import pytest

from modules.evaluation.report import MEASURES
from modules.evaluation.verdict import SCALES, in_words


@pytest.mark.parametrize(
    ("measure", "value", "words"),
    [
        ("f0_correlation", 0.98, "follows the melody"),
        ("f0_correlation", 0.979, "mostly follows the melody"),
        ("f0_correlation", 0.95, "mostly follows the melody"),
        ("f0_correlation", 0.949, "loses the melody in places"),
        ("f0_correlation", 0.8, "loses the melody in places"),
        ("f0_correlation", -0.2, "loses the melody"),
        ("false_voicing", 0.15, "consonants stay unvoiced"),
        ("false_voicing", 0.16, "sings through consonants"),
        ("missed_voicing", 0.15, "notes are held"),
        ("missed_voicing", 0.16, "notes break off"),
        ("level_db", -9.0, "too quiet by 9 dB"),
        ("level_db", -1.9, "level fits"),
        ("level_db", 2.0, "level fits"),
        ("level_db", 4.4, "too loud by 4 dB"),
        ("level_correlation", 0.8, "loudness follows"),
        ("level_correlation", 0.79, "loudness wanders"),
        ("wer", 0.15, "words are understood"),
        ("wer", 0.16, "some words are lost"),
        ("wer", 0.35, "some words are lost"),
        ("wer", 0.36, "words are lost"),
        ("similarity_target", 0.72, "sounds like the target"),
        ("similarity_target", 0.71, "closer to the target, not yet like it"),
    ],
)
def test_a_number_has_words(measure, value, words):
    assert in_words({measure: value}) == [words]


def test_a_voice_must_be_more_like_the_target_than_its_source_was():
    words = ["no closer to the target than the source"]
    assert in_words({"similarity_target": 0.8, "similarity_before": 0.8}) == words
    assert in_words({"similarity_target": 0.8, "similarity_before": 0.7}) == ["sounds like the target"]
    assert in_words({"similarity_target": None, "similarity_before": 1.0}) == []


def test_a_fault_counts_where_both_predictors_hear_it():
    assert in_words({"f0_correlation": 0.6, "f0_correlation_second": 0.99}) == ["follows the melody"]
    assert in_words({"f0_correlation": 0.6, "f0_correlation_second": math.nan}) == ["loses the melody"]
    assert in_words({"false_voicing": 0.4, "false_voicing_second": 0.1}) == ["consonants stay unvoiced"]
    assert in_words({"false_voicing": 0.4, "false_voicing_second": 0.2}) == ["sings through consonants"]


def test_what_was_not_measured_says_nothing():
    assert in_words({"wer": math.nan, "level_db": None, "realtime_factor": 0.5}) == []


def test_every_scale_is_of_a_measure_and_has_words_for_every_number():
    names = {measure.name for measure in MEASURES}
    for scale in SCALES:
        assert scale.measure in names and len(scale.words) == len(scale.bounds) + 1
        assert list(scale.bounds) == sorted(scale.bounds)
