"""F0 curves of whole songs as CSV files: ours for a spreadsheet, and what spreadsheets and other tools write.

    time,hz,voiced
    0.000000,0,0
    0.011610,220.12346,1

Times are seconds of the song; hz is 0 where nothing is voiced.
"""

import csv
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modules.errors import UsageError, reason_of
from modules.f0.limits import HIGHEST, LOWEST
from modules.files import read_bytes, write_text
from modules.text import listing, printable

logger = logging.getLogger(__name__)

HEADER = "time,hz,voiced"
_NAMES = {
    "time": ("time", "seconds", "start", "t"),
    "hz": ("hz", "f0", "frequency", "freq", "pitch"),
    "voiced": ("voiced",),
}
_VOICED = {"1": True, "true": True, "0": False, "false": False}
_UNDEFINED = ("--undefined--", "undefined")  # Praat
_SAME_PLACE = 0.05  # of a step: rows as near as this to a frame are that frame's
_HOLE = 1.5  # steps, above which rows are missing


@dataclass(frozen=True)
class Curve:
    """The F0 of a song, as a file has it."""

    times: np.ndarray  # (n,) float64 seconds, ascending
    hz: np.ndarray  # (n,) float32 Hz, 0 where unvoiced
    holes_are_unvoiced: bool = False  # of a tool that writes voiced rows alone; else a hole says nothing

    def on_frames(self, n_frames: int, hop_seconds: float, start: float = 0.0) -> np.ndarray:
        """(N,) Hz at the frames start + i * hop, 0 where unvoiced, NaN where the file says nothing.

        A row that lies on a frame is taken as it is. Between two voiced rows the logarithm of the pitch is
        interpolated; else the nearest row decides.
        """
        times, hz, frames = self.times, self.hz.astype(np.float64), start + np.arange(n_frames) * hop_seconds
        step = float(np.median(np.diff(times)))
        right = np.clip(np.searchsorted(times, frames), 1, len(times) - 1)
        left = right - 1
        before, after, width = frames - times[left], times[right] - frames, times[right] - times[left]
        nearest = np.where(before <= after, left, right)
        distance = np.minimum(np.abs(before), np.abs(after))
        inside = (before >= 0) & (after >= 0) & (width <= _HOLE * step)
        blends = inside & (hz[left] > 0) & (hz[right] > 0) & (distance > _SAME_PLACE * min(step, hop_seconds))
        log = np.log(np.where(hz > 0, hz, 1.0))
        blended = np.exp(log[left] + np.clip(before / width, 0, 1) * (log[right] - log[left]))
        found = np.where(blends, blended, hz[nearest])
        said = inside | (distance <= max(step, hop_seconds) / 2)
        in_hole = (before > 0) & (after > 0) & self.holes_are_unvoiced
        return np.where(said, found, np.where(in_hole, 0.0, np.nan))


def write_curve(path: Path, hz: np.ndarray, hop_seconds: float, overwrite: bool = False) -> None:
    """Writes a curve (N,) float32 Hz, 0 where unvoiced, of the frames i * hop, whole or not at all.

    An equal file stays as it is; a UsageError where there is another one, which may be a person's work.
    """
    rows = (
        f"{index * hop_seconds:.6f},{f'{value!s},1' if value > 0 else '0,0'}"
        for index, value in enumerate(hz.astype(np.float32))
    )
    text = "\n".join([HEADER, *rows, ""])
    try:
        if path.exists() and not overwrite:
            if read_bytes(path) == text.encode("utf-8"):
                return
            raise UsageError(
                f"--f0_out {path}: is there already, with another curve. Use another name, or --overwrite to replace it"
            )
        write_text(path, text)
    except OSError as error:
        raise UsageError(f"--f0_out {path}: cannot be written ({reason_of(error, path)})") from None


def read_curve(path: Path) -> Curve:
    """The curve in a CSV file: columns time, hz and perhaps voiced, in any order under a heading, else in this one.

    Separated by commas, semicolons (then with decimal commas, too), tabs or spaces. Without a column `voiced`, 0 and
    negative numbers are unvoiced. A UsageError names the first line that is wrong.
    """
    lines = list(_cells(path))
    columns, n_headings = _columns(path, lines[0][1] if lines else [])
    times, hz = [], []
    for number, cells in lines[n_headings:]:
        time, value = _row(f"--f0_in {path}, line {number}", cells, columns)
        if times and time <= times[-1]:
            raise UsageError(
                f"--f0_in {path}, line {number}: the time {time:g} s is not after the one before, {times[-1]:g} s. "
                "Sort the rows by time, each time once"
            )
        times.append(time)
        hz.append(value)
    if len(times) < 2:
        raise UsageError(f"--f0_in {path}: holds fewer than two rows of a curve; expected columns {HEADER}")
    found = np.array(hz, np.float32)
    return Curve(np.array(times), found, "voiced" not in columns and bool((found > 0).all()))


def _row(where: str, cells: list[str], columns: dict[str, int]) -> tuple[float, float]:
    """Time and Hz, 0 where unvoiced, of one line."""
    if len(cells) <= max(columns.values()):
        raise UsageError(f"{where}: has {len(cells)} columns; expected {', '.join(columns)}")
    time, text = _number(cells[columns["time"]]), cells[columns["hz"]]
    if time is None or time < 0:
        raise UsageError(f"{where}: the time is {printable(cells[columns['time']])!r}; expected seconds, 0 or more")
    value = 0.0 if text.lower() in _UNDEFINED else _number(text)
    voiced = value is not None and value > 0
    if "voiced" in columns:
        said = _VOICED.get(cells[columns["voiced"]].lower())
        if said is None:
            raise UsageError(f"{where}: voiced is {printable(cells[columns['voiced']])!r}; expected 1 or 0")
        if said and not voiced and value is not None:
            raise UsageError(f"{where}: hz is {printable(text)} and voiced is 1; give a pitch, or 0 for voiced")
        voiced = said
    if value is None or (voiced and not LOWEST <= value <= HIGHEST):
        expected = f"a number from {LOWEST:g} to {HIGHEST:g}, or 0 where nothing is voiced"
        raise UsageError(f"{where}: hz is {printable(text)!r}; expected {expected}")
    return time, value if voiced else 0.0


def _columns(path: Path, first: list[str]) -> tuple[dict[str, int], int]:
    """Where time, hz and perhaps voiced stand, by the first line of a file, and how many headings it has."""
    if not first or _number(first[0]) is not None:
        return {"time": 0, "hz": 1}, 0  # a third column without a name may be anything
    plain = [cell.lower().split("[")[0].split("(")[0].strip() for cell in first]
    words = [set(cell.replace("_", " ").split()) for cell in plain]
    found = {}
    for name, known in _NAMES.items():
        places = [index for index, cell in enumerate(words) if cell.intersection(known) and index not in found.values()]
        if places:
            found[name] = places[0]
    if missing := [name for name in ("time", "hz") if name not in found]:
        names = listing(first)
        raise UsageError(f"--f0_in {path}: no column is called {' or '.join(missing)}; it has: {names}")
    if others := [cell for index, cell in enumerate(first) if index not in found.values()]:
        logger.info("%s: not used: %s", path, listing(others))
    return found, 1


def _cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line that is not empty and no comment."""
    try:
        content = read_bytes(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"--f0_in {path}: {reason_of(error, path)}") from None
    try:
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"--f0_in {path}: is no text in UTF-8; export it as CSV in UTF-8") from None
    lines = text.splitlines()
    told = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    separator = next((sign for sign in ";\t," if sign in told), None)
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            try:
                cells = line.split() if separator is None else next(csv.reader([line], delimiter=separator))
            except csv.Error as error:
                raise UsageError(f"--f0_in {path}, line {number}: {error}") from None
            yield number, [cell.strip() for cell in cells]


def _number(text: str) -> float | None:
    """The finite number that a cell holds, with a decimal point or comma; None where it is none."""
    try:
        value = float(text.replace(",", ".", 1) if "." not in text else text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
