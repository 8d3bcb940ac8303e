"""What the numbers of an evaluation mean in words. All thresholds are in the one table here."""

import math
from bisect import bisect_left, bisect_right
from typing import NamedTuple


class Scale(NamedTuple):
    """One measure's bounds, rising, and the words for what lies below the first, between two, and above the last."""

    measure: str
    bounds: tuple[float, ...]
    words: tuple[str, ...]  # one more than bounds; {} is the number without its sign
    higher_is_better: bool  # a number on a bound gets the better words


SCALES = (
    Scale(
        "f0_correlation",
        (0.8, 0.95, 0.98),
        ("loses the melody", "loses the melody in places", "mostly follows the melody", "follows the melody"),
        True,
    ),
    Scale("false_voicing", (0.15,), ("consonants stay unvoiced", "sings through consonants"), False),
    Scale("missed_voicing", (0.15,), ("notes are held", "notes break off"), False),
    Scale("level_db", (-2.0, 2.0), ("too quiet by {:.0f} dB", "level fits", "too loud by {:.0f} dB"), False),
    Scale("level_correlation", (0.8,), ("loudness wanders", "loudness follows"), True),
    Scale("wer", (0.15, 0.35), ("words are understood", "some words are lost", "words are lost"), False),
    Scale(
        "similarity_target",  # 0 where it is not above similarity_before
        (0.01, 0.72),
        ("no closer to the target than the source", "closer to the target, not yet like it", "sounds like the target"),
        True,
    ),
)


def in_words(values: dict[str, float | None]) -> list[str]:
    """What is to be said of a clip or of means, from the numbers of measures by name; absent and nan say nothing."""
    known = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
    if known.get("similarity_target", math.inf) <= known.get("similarity_before", 0.0):
        known["similarity_target"] = 0.0
    said = []
    for scale in SCALES:
        # A fault counts if both F0 predictors hear it: octave errors and breath taken for voice are those of one alone.
        found = [known[name] for name in (scale.measure, f"{scale.measure}_second") if name in known]
        if found:
            value = max(found) if scale.higher_is_better else min(found)
            passed = (bisect_right if scale.higher_is_better else bisect_left)(scale.bounds, value)
            said.append(scale.words[passed].format(abs(value)))
    return said
