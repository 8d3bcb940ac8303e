"""The votes of listeners: the CSV files that pages give, and what they say about each setting."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from modules.errors import FAILURES, UsageError, reason_of
from modules.grid.sheet import FOLDER, PAGE, Sheet, read_sheet
from modules.text import counted, printable

COLUMNS = ("grid", "song", "player", "cell", "stars", "best", "blind")


@dataclass(frozen=True)
class Vote:
    """What one listener thinks of one cell."""

    grid: str  # name of the grid's folder
    cell: str  # its id in the grid's sheet
    stars: int | None  # 1 to 5; None where none were given
    is_best: bool  # of the cells of its song
    is_blind: bool  # was given before the page said what is what


def read_votes(path: Path) -> list[Vote]:
    """The votes in a CSV file; a UsageError that names the line where it is none that a page has made."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets begin a file with a byte order mark
            rows = list(csv.DictReader(file, strict=True))
    except FAILURES as error:
        raise UsageError(f"--votes {path}: {reason_of(error, path)}") from None
    except (ValueError, csv.Error) as error:
        raise UsageError(f"--votes {path}: is no CSV file ({error})") from None
    if not rows:
        raise UsageError(f"--votes {path}: holds no votes. Give some on the page, then download them there")
    if missing := [name for name in COLUMNS if name not in rows[0]]:
        raise UsageError(f"--votes {path}: has no column {missing[0]}; expected the file that the page downloads")
    found = []
    for number, row in enumerate(rows, 2):
        stars = row["stars"] or ""
        if stars not in ("", *"12345") or not row["cell"]:
            raise UsageError(
                f"--votes {path}: line {number}: stars is {printable(stars)!r}, expected 1 to 5 or nothing"
            )
        vote = Vote(row["grid"], row["cell"], int(stars) if stars else None, row["best"] == "yes", row["blind"] != "no")
        if vote.stars is not None or vote.is_best:
            found.append(vote)
    return found


def sheet_of(path: Path, votes: list[Vote]) -> Sheet:
    """The sheet of the grid that votes in `path` are about: beside the file, or in results/grid/."""
    folders = [path.parent, *(FOLDER / name for name in dict.fromkeys(vote.grid for vote in votes) if _is_name(name))]
    for folder in folders:
        sheet = read_sheet(folder) if folder.is_dir() else None
        if sheet is not None and any(vote.cell in sheet.cells for vote in votes):
            return sheet
    raise UsageError(
        f"--votes {path}: no grid.json knows these cells. Put the file beside the {PAGE} that it was made on"
    )


def _is_name(text: str) -> bool:
    return bool(text) and Path(text).name == text and text not in (".", "..")


def summarise(paths: Iterable[Path]) -> str:
    """Tables of the votes in several files, a listener each: mean stars by cell and by setting, with 95 % intervals."""
    lines: list[str] = []
    votes, cells, n_unknown, n_files = [], {}, 0, 0
    for path in paths:
        given = read_votes(path)
        known = sheet_of(path, given).cells if given else {}
        cells |= known
        votes += [vote for vote in given if vote.cell in known]
        n_unknown += sum(vote.cell not in known for vote in given)
        n_files += 1
    if not votes:
        raise UsageError("--votes: nobody has given stars, or said what is best")
    lines.append(f"{counted(len(votes), 'vote')} in {counted(n_files, 'file')}; stars with 95 % intervals over votes")
    if n_unknown:
        lines.append(f"{counted(n_unknown, 'vote')} left out: of cells that no grid.json knows")
    if n_open := sum(not vote.is_blind for vote in votes):
        lines.append(f"{counted(n_open, 'vote')} given after the page had said what is what")
    flags = list(dict.fromkeys(flag for vote in votes for flag in cells[vote.cell].settings))
    for flag in flags:
        groups: dict[str, list[Vote]] = {}
        for vote in votes:
            groups.setdefault(cells[vote.cell].settings.get(flag, ""), []).append(vote)
        lines += ["", *_table(flag, groups)]
    by_cell: dict[str, list[Vote]] = {}
    for vote in votes:
        text = " ".join(f"{flag} {value}" for flag, value in cells[vote.cell].settings.items())
        by_cell.setdefault(text or vote.cell, []).append(vote)
    return "\n".join([*lines, "", *_table("all settings", by_cell)])


def _table(title: str, groups: dict[str, list[Vote]]) -> list[str]:
    """Rows of text, the best first."""
    from modules.evaluation.report import describe  # torch: what is wrong with the files has been said by now
    from modules.metrics.signal import bootstrap_interval

    rows = []
    for name, votes in groups.items():
        interval = bootstrap_interval([float(vote.stars) for vote in votes if vote.stars is not None])
        shown = describe(interval, 2) if interval.count else "-"
        n_best = str(sum(vote.is_best for vote in votes))
        mean = interval.mean if interval.count else 0.0
        rows.append((-mean, [printable(name), shown, str(interval.count), n_best]))
    table = [[title, "stars", "votes", "best"], *(row for _, row in sorted(rows, key=lambda item: item[0]))]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in table]
