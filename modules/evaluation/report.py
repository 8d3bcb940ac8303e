"""What an evaluation writes: which measures there are, a row for each converted clip, means, CSV tables, the page."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

from modules.evaluation.verdict import in_words
from modules.files import atomic_path
from modules.metrics.signal import Interval, bootstrap_interval

ALL = "(all)"  # stands for the speaker in means over all rows


class Measure(NamedTuple):
    """One column of the tables."""

    name: str  # in CSV files
    title: str  # for readers
    digits: int  # after the point
    meaning: str


_SECOND = "The same as the second F0 predictor hears it."
MEASURES = (
    Measure("f0_correlation", "log-f0 correlation", 4, "1: the melody is followed exactly. Higher is better."),
    Measure("f0_correlation_second", "log-f0 correlation, second predictor", 4, _SECOND),
    Measure("f0_rmse_cents", "f0 RMSE, cents", 1, "Pitch error, the median offset taken off. Lower is better."),
    Measure("f0_offset_cents", "f0 offset, cents", 1, "Median pitch beside what was asked for. Near 0 is better."),
    Measure(
        "false_voicing", "false voicing", 4, "Share of the source's unvoiced frames that are voiced now: 0 is best."
    ),
    Measure("false_voicing_second", "false voicing, second predictor", 4, _SECOND),
    Measure("missed_voicing", "missed voicing", 4, "Share of the source's voiced frames that are not now: 0 is best."),
    Measure("missed_voicing_second", "missed voicing, second predictor", 4, _SECOND),
    Measure("level_db", "level, dB", 1, "Result beside source, median over its loudest 30 dB. Near 0 is better."),
    Measure("level_correlation", "level correlation", 4, "1: the loudness is followed exactly. Higher is better."),
    Measure(
        "similarity_target", "similarity to target", 4, "GE2E cosine to the target's recordings. Higher is better."
    ),
    Measure("similarity_before", "similarity before", 4, "The source's own to the target: what is to be exceeded."),
    Measure("similarity_source", "similarity to source", 4, "GE2E cosine to the source itself. Lower is better."),
    Measure("wer", "word error rate", 4, "Against the transcript of the source; may exceed 1. Lower is better."),
    Measure("mcd_db", "mel-cepstral distance, dB", 2, "To the parallel take of the target. Lower is better."),
    Measure("dnsmos", "DNSMOS", 2, "Naturalness, 1 to 5, as a network guesses it. Higher is better."),
    Measure("dnsmos_source", "DNSMOS of the source", 2, "The same of the source: what can be expected."),
    Measure("realtime_factor", "real-time factor", 3, "Computing time over duration: below 1 is faster than playing."),
)
COLUMNS = ("source", "speaker", "result", "seconds", "transpose", *(measure.name for measure in MEASURES), "verdict")


@dataclass(frozen=True)
class Row:
    """One source in one voice, and what the page shows of it."""

    source: str
    speaker: str
    result: str  # the file written, as seen from the output folder
    seconds: float  # of the source that were converted
    transpose: int  # semitones asked for
    # Measure -> number: nan where these clips do not determine it, None (or nothing) where nobody measured it.
    values: dict[str, float | None]
    source_uri: str = ""  # addresses of the sounds and the picture (`data:...`), "" for what is left out
    result_uri: str = ""
    picture_uri: str = ""


Summary: TypeAlias = dict[str, dict[str, Interval]]  # speaker -> measure -> mean; only measures that have a value


def summarise(rows: list[Row]) -> Summary:
    """Means over all rows first (speaker `ALL`), then for each speaker in the order of the rows."""
    summary: Summary = {}
    for speaker in dict.fromkeys([ALL, *(row.speaker for row in rows)]):
        group = [row for row in rows if speaker in (ALL, row.speaker)]
        summary[speaker] = {}
        for name in (measure.name for measure in MEASURES):
            interval = bootstrap_interval([value for row in group if (value := row.values.get(name)) is not None])
            if interval.count:
                summary[speaker][name] = interval
    return summary


def verdict(values: dict[str, float | Interval | None]) -> str:
    """The numbers of a clip, or means, in words: "follows the melody, level fits"."""
    return ", ".join(in_words({name: getattr(value, "mean", value) for name, value in values.items()}))


def as_text(value: float | None, digits: int) -> str:
    """A field of a table: "0.51", "nan", or nothing for None."""
    return "" if value is None else f"{value:.{digits}f}"


def describe(interval: Interval, digits: int) -> str:
    """For readers: "0.981 [0.975, 0.988]", or "0.981" of a single value."""
    mean = as_text(interval.mean, digits)
    return f"{mean} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]" if math.isfinite(interval.low) else mean


def write_scores(path: Path, rows: list[Row]) -> None:
    """Writes `scores.csv`: a header and a line for each row."""
    lines = [COLUMNS]
    for row in rows:
        values = [as_text(row.values.get(measure.name), measure.digits) for measure in MEASURES]
        lines.append(
            (row.source, row.speaker, row.result, f"{row.seconds:.2f}", row.transpose, *values, verdict(row.values))
        )
    _write_csv(path, lines)


def write_summary(path: Path, summary: Summary) -> None:
    """Writes `summary.csv`: for each speaker and measure the mean, the ends of the 95 % interval, and the count."""
    lines = [["speaker", "measure", "mean", "low", "high", "count"]]
    for speaker, intervals in summary.items():
        for measure in MEASURES:
            if (interval := intervals.get(measure.name)) is not None:
                numbers = [_finite_text(value, measure.digits) for value in interval[:3]]
                lines.append([speaker, measure.name, *numbers, interval.count])
    _write_csv(path, lines)


def _write_csv(path: Path, lines: list) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


def build_page(title: str, facts: dict[str, str], rows: list[Row], summary: Summary, notes: list[str]) -> str:
    """The page, one HTML file that loads nothing; `notes` are sentences on what is missing or failed."""
    from jinja2 import Environment, FileSystemLoader

    loader = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pages.globals |= {"measures": MEASURES, "describe": describe, "finite_text": _finite_text, "verdict": verdict}
    return pages.get_template("report.html").render(title=title, facts=facts, rows=rows, summary=summary, notes=notes)


def _finite_text(value: float | None, digits: int) -> str:
    return as_text(value, digits) if value is not None and math.isfinite(value) else ""
