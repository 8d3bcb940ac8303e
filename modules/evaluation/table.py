"""The tables of an evaluation: which measures there are, a row for each converted clip, means with intervals, CSV."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from modules.files import atomic_path
from modules.metrics.signal import Interval, bootstrap_interval

ALL = "(all)"  # stands for the speaker in means over all rows


class Measure(NamedTuple):
    """One column: its `name` in CSV files, its `title` for readers, digits after the point, and what it tells."""

    name: str
    title: str
    digits: int
    meaning: str


MEASURES = (
    Measure("f0_correlation", "log-f0 correlation", 4, "1: the melody is followed exactly. Higher is better."),
    Measure("f0_rmse_cents", "f0 RMSE, cents", 1, "Pitch error, the median offset taken off. Lower is better."),
    Measure("f0_offset_cents", "f0 offset, cents", 1, "Median pitch beside what was asked for. Near 0 is better."),
    Measure("voicing_error", "voicing error", 4, "Share of frames voiced in only one of the two. Lower is better."),
    Measure(
        "similarity_target", "similarity to target", 4, "GE2E cosine to the target's recordings. Higher is better."
    ),
    Measure("similarity_source", "similarity to source", 4, "GE2E cosine to the source itself. Lower is better."),
    Measure("wer", "word error rate", 4, "Against what is heard in the source; may exceed 1. Lower is better."),
    Measure("mcd_db", "mel-cepstral distance, dB", 2, "To the parallel take of the target. Lower is better."),
    Measure("dnsmos", "DNSMOS", 2, "Naturalness, 1 to 5, as a network guesses it. Higher is better."),
    Measure("dnsmos_source", "DNSMOS of the source", 2, "The same of the source: what can be expected."),
    Measure("realtime_factor", "real-time factor", 3, "Computing time over duration: below 1 is faster than playing."),
)
COLUMNS = ("source", "speaker", "result", "seconds", "transpose", *(measure.name for measure in MEASURES))


@dataclass(frozen=True)
class Row:
    """One source in one voice.

    Args:
        source: its name.
        speaker: the target voice.
        result: the file written, as seen from the output folder.
        seconds: of the source that were converted.
        transpose: semitones asked for.
        values: measure to number; nan where it could not be told from these clips, None (or nothing) where nobody
            tried to.
    """

    source: str
    speaker: str
    result: str
    seconds: float
    transpose: int
    values: dict[str, float | None]


@dataclass(frozen=True)
class Means:
    """Means over the rows of one speaker, or of `ALL`: measure to interval, only those that have a value."""

    speaker: str
    intervals: dict[str, Interval]


def summarise(rows: list[Row]) -> list[Means]:
    """Means over all rows first, then for each speaker in the order of the rows."""
    speakers = list(dict.fromkeys(row.speaker for row in rows))
    groups = [(ALL, rows), *((speaker, [row for row in rows if row.speaker == speaker]) for speaker in speakers)]
    return [Means(speaker, _intervals(group)) for speaker, group in groups]


def as_text(value: float | None, digits: int) -> str:
    """A field of a table: "0.51", "nan", or nothing for None."""
    return "" if value is None else f"{value:.{digits}f}"


def write_scores(path: Path, rows: list[Row]) -> None:
    """Writes `scores.csv`: a header and a line for each row."""
    lines = [
        [row.source, row.speaker, row.result, f"{row.seconds:.2f}", row.transpose]
        + [as_text(row.values.get(measure.name), measure.digits) for measure in MEASURES]
        for row in rows
    ]
    _write_csv(path, [list(COLUMNS), *lines])


def write_summary(path: Path, summary: list[Means]) -> None:
    """Writes `summary.csv`: for each speaker and measure the mean, the ends of the 95 % interval, and the count."""
    lines = [["speaker", "measure", "mean", "low", "high", "count"]]
    for means in summary:
        for measure in MEASURES:
            if (interval := means.intervals.get(measure.name)) is not None:
                low, high = (end if math.isfinite(end) else None for end in (interval.low, interval.high))
                ends = [as_text(value, measure.digits) for value in (interval.mean, low, high)]
                lines.append([means.speaker, measure.name, *ends, str(interval.count)])
    _write_csv(path, lines)


def describe(interval: Interval, digits: int) -> str:
    """For readers: "0.981 [0.975, 0.988]", or "0.981" of a single value."""
    mean = as_text(interval.mean, digits)
    return f"{mean} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]" if math.isfinite(interval.low) else mean


def _intervals(rows: list[Row]) -> dict[str, Interval]:
    found = {}
    for measure in MEASURES:
        values = [value for row in rows if (value := row.values.get(measure.name)) is not None]
        interval = bootstrap_interval(values)
        if interval.count:
            found[measure.name] = interval
    return found


def _write_csv(path: Path, lines: list[list]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)
