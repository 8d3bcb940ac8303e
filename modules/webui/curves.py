"""The curves of a training: losses out of its train.log, scores out of its scores.csv."""

import csv
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas

LOSSES = ("total", "mel", "stft", "kl", "lf0", "gen", "fm", "disc")  # of `modules.training.step.Losses`
SCORES = ("mel", "f0_cents", "voicing", "similarity")  # of `modules.training.scores.Scores`
POINTS = 500  # of a curve, at most
COLUMNS = ("step", "curve", "value")
_TAIL = 8_000_000  # bytes of a log that are read: some 60 000 steps that were logged
_LOGGED = re.compile(r"\tINFO\tstep (\d+), epoch \d+: (.*), lr ")
_LOSS = re.compile(r"(\w+) (-?\d+\.\d+)(?= |$)")


def read_losses(folder: Path) -> dict[int, dict[str, float]]:
    """Step -> loss -> value, from the train.log of a run; nothing where it cannot be read.

    A run that went on from an earlier step has given up what was logged after that step.
    """
    found: dict[int, dict[str, float]] = {}
    for match in _LOGGED.finditer(_tail(folder / "train.log")):
        step = int(match[1])
        if found and step <= next(reversed(found)):
            found = {at: losses for at, losses in found.items() if at < step}
        found[step] = {name: float(value) for name, value in _LOSS.findall(match[2]) if name in LOSSES}
    return found


def read_scores(folder: Path) -> dict[int, dict[str, float]]:
    """Step -> score -> value, from the scores.csv of a run; nothing where it cannot be read."""
    path = folder / "scores.csv"
    if not path.is_file():
        return {}
    from modules.training.scores import read_table  # imports torch

    try:
        table = read_table(path)
    except (OSError, ValueError, csv.Error):
        return {}
    return {step: scores._asdict() for step, (_, scores) in sorted(table.items())}


def as_frame(values: dict[int, dict[str, float]], names: list[str]) -> "pandas.DataFrame":
    """The curves of these names as rows `COLUMNS`, thinned evenly; values that are no numbers are left out."""
    import pandas

    rows = []
    for name in names:
        curve = [(step, name, row[name]) for step, row in values.items() if _is_number(row.get(name))]
        rows += thinned(curve)
    return pandas.DataFrame(rows, columns=list(COLUMNS)).astype({"step": int, "value": float})


def thinned(items: list) -> list:
    """At most `POINTS` of the items, evenly spaced, the first and the last among them."""
    if len(items) <= POINTS:
        return items
    return [items[index] for index in np.linspace(0, len(items) - 1, POINTS).round().astype(int)]


def signature(folder: Path) -> str:
    """A text that is another once the files of the curves have changed."""
    found = []
    for path in (folder / "train.log", folder / "scores.csv"):
        try:
            found.append((path.stat().st_mtime_ns, path.stat().st_size))
        except OSError:
            found.append(None)
    return repr((folder.as_posix(), found))


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
