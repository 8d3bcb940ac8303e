"""The ranges of a voice's speakers: measured with a progress bar, as a table for programs, and in the model's card."""

import contextlib
import json
import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from modules.contracts import F0Predictor
from modules.evaluation.scale import Measured, ScaleTest, Vowels, built_in_vowels, find_vowels, volume_for
from modules.f0.histogram import note_name
from modules.files import write_text
from modules.inference.pipeline import Pipeline
from modules.metrics import notes
from modules.text import printable
from modules.weights.about import RANGES
from modules.weights.card import write_card

logger = logging.getLogger(__name__)


def measure_ranges(
    pipeline: Pipeline, speakers: Sequence[str], folder: Path, predictors: Sequence[F0Predictor]
) -> dict[str, Measured]:
    """The range of each speaker, on vowels of the recordings in `folder`/SPEAKER/, or else a synthesized one."""
    volume = volume_for(pipeline.card, pipeline.with_volume)
    test, found = ScaleTest(pipeline.synthesizer, pipeline.audio, predictors, volume), {}
    bar = tqdm(total=len(speakers) * len(test.notes), desc="range", unit="note", dynamic_ncols=True)
    with bar:
        for speaker in speakers:
            vowels = find_vowels(pipeline, speaker, folder / speaker) or built_in_vowels(pipeline, speaker)
            found[speaker] = test.measure(pipeline.speakers[speaker], vowels, bar.update)
            bar.update(len(test.notes) - len(found[speaker].scores))
    return found


def measure_within(
    seconds: float, test: ScaleTest, vowels: Iterable[tuple[str, int, Vowels | None]]
) -> dict[str, Measured]:
    """The ranges of speakers, each given by name, id and vowels, as far as the time allows; without vowels, none."""
    found, end = {}, time.monotonic() + seconds

    def look_at_clock() -> None:
        if time.monotonic() > end:
            raise TimeoutError

    with contextlib.suppress(TimeoutError):
        for name, number, sung in vowels:
            look_at_clock()
            if sung is not None:
                found[name] = test.measure(number, sung, look_at_clock)
    return found


def describe_ranges(measured: dict[str, Measured]) -> str:
    """For people: a line for each speaker."""
    return "\n".join(["Range:", *(f"  {printable(speaker)}: {found}" for speaker, found in measured.items())])


def write_ranges(path: Path, model: Path, measured: dict[str, Measured]) -> None:
    """Writes `range.json`: the ranges, the scores of every note, and by which rules they were judged."""
    rules = {
        "right_within_cents": notes.RIGHT_CENTS,
        "right_share_of_frames": notes.RIGHT_SHARE,
        "comfortable_level_below_median_db": notes.LEVEL_DB,
        "comfortable_clarity_below_median_db": notes.CLARITY_DB,
    }
    speakers = {name: _plain(found) for name, found in measured.items()}
    text = json.dumps({"model": model.as_posix(), "rules": rules, "speakers": speakers}, ensure_ascii=False, indent=1)
    write_text(path, text + "\n")


def put_on_card(model: Path, card: dict[str, Any], measured: dict[str, Measured]) -> None:
    """Writes the ranges into the card of a model's file, in place of what it says of these speakers now."""
    before = card.get(RANGES)
    kept = {name: value for name, value in (before if isinstance(before, dict) else {}).items() if name not in measured}
    known = {name: found.range.to_plain() for name, found in measured.items() if found.range is not None}
    write_card(model, {**card, RANGES: {**kept, **known}})
    logger.info("%s: its card holds the ranges now", model)


def _plain(found: Measured) -> dict[str, Any]:
    known = {} if found.range is None else {**found.range.to_plain(), "text": str(found.range)}
    scores = [
        {
            "note": note_name(score.midi),
            "midi": score.midi,
            "right": score.is_right,
            "right_share": [round(share, 3) for share in score.shares],
            "level_db": round(score.level_db, 2),
            "clarity_db": round(score.clarity_db, 2),
        }
        for score in found.scores
    ]
    return {**known, "vowel": found.vowel, "notes": scores}
