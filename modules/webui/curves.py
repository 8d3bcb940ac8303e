"""The curves of a training: losses out of its train.log, scores out of its scores.csv."""

import csv
import html
import math
import os
import re
from pathlib import Path

import numpy as np

LOSSES = ("total", "mel", "stft", "kl", "lf0", "gen", "fm", "disc")  # of `modules.training.step.Losses`
SCORES = ("mel", "f0_cents", "voicing", "similarity")  # of `modules.training.scores.Scores`
POINTS = 500  # of a curve, at most
_MARKED = 30  # points of a curve, up to which each is marked
_WIDTH, _LEFT, _MARGIN, _TOP, _BOTTOM = 600, 56, 12, 28, 200  # of a chart, in its own units
_COLOURS = ("#2563eb", "#ea580c", "#16a34a", "#9333ea", "#dc2626", "#0891b2", "#a16207", "#64748b")
Curve = list[tuple[int, float]]  # step, value
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


def chosen(values: dict[int, dict[str, float]], names: list[str]) -> dict[str, Curve]:
    """The curves of these names, thinned evenly; values that are no numbers are left out, and empty curves too."""
    curves = {}
    for name in names:
        found = thinned([(step, row[name]) for step, row in values.items() if _is_number(row.get(name))])
        if found:
            curves[name] = found
    return curves


def draw(title: str, curves: dict[str, Curve]) -> str:
    """A chart of curves over the steps, as SVG in the colours of the page."""
    if not curves:
        return f'<p class="empty">{html.escape(title)}: none yet</p>'
    points = [point for curve in curves.values() for point in curve]
    x_ticks, y_ticks = (_ticks([point[axis] for point in points]) for axis in (0, 1))

    def at(x: float, y: float) -> tuple[float, float]:
        """Where a point stands in the picture."""
        across, up = ((value - ticks[0]) / (ticks[-1] - ticks[0]) for value, ticks in ((x, x_ticks), (y, y_ticks)))
        return round(_LEFT + across * (_WIDTH - _LEFT - _MARGIN), 1), round(_BOTTOM - up * (_BOTTOM - _TOP), 1)

    parts = [f'<text x="{_LEFT}" y="16">{html.escape(title)}</text>']
    for tick in y_ticks:
        height = at(x_ticks[0], tick)[1]
        parts.append(f'<path class="grid" d="M{_LEFT} {height}H{_WIDTH - _MARGIN}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{height + 4}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        parts.append(f'<text x="{at(tick, y_ticks[0])[0]}" y="{_BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
    for number, (name, curve) in enumerate(curves.items()):
        colour, line = _COLOURS[number % len(_COLOURS)], " ".join("{},{}".format(*at(*point)) for point in curve)
        parts.append(f'<polyline points="{line}" stroke="{colour}"/>')
        if len(curve) <= _MARKED:
            parts += ['<circle cx="{}" cy="{}" r="3" fill="{}"/>'.format(*at(*point), colour) for point in curve]
        text = f"{name} {curve[-1][1]:.4g}"
        parts.append(f'<text x="{_LEFT + 130 * number}" y="{_BOTTOM + 36}" fill="{colour}">{html.escape(text)}</text>')
    return f'<svg class="chart" viewBox="0 0 {_WIDTH} {_BOTTOM + 44}" role="img">{"".join(parts)}</svg>'


def _ticks(values: list[float]) -> list[float]:
    """Round numbers that enclose the values, five or so."""
    from matplotlib.ticker import MaxNLocator

    low, high = min(values), max(values)
    if low == high:
        low, high = low - 1, high + 1
    ticks = MaxNLocator(5).tick_values(low, high).tolist()
    return [round(tick, 10) for tick in ticks]


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
