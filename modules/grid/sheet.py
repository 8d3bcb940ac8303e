"""The sheet of a grid, grid.json: what every cell of it is, so that a finished one is not made again and a vote, whose
file names only the cell, can be read.

    results/grid/NAME/
        grid.json        this
        songs/           excerpts, with --start or --seconds
        cells/ID.flac    the sound of each cell, under a name that says nothing
        index.html       the page, of the newest request
"""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from modules.errors import FAILURES, UsageError, reason_of
from modules.files import read_bytes, write_json

FOLDER = Path("results") / "grid"
SHEET, PAGE, CELLS, SONGS = "grid.json", "index.html", "cells", "songs"


@dataclass
class Cell:
    """One song with one combination of settings, finished."""

    song: str  # its name
    settings: dict[str, str]  # flag -> value, of those that differ within the grid
    command: str  # that makes it of the whole song
    file: str  # its sound, as seen from the grid's folder
    seconds: float
    scores: dict[str, float | None] = field(default_factory=dict)  # None: nobody measured it, or it has none


@dataclass
class Sheet:
    """All cells that were ever made in a folder, by their ids, and which of them the page shows."""

    path: Path
    cells: dict[str, Cell] = field(default_factory=dict)
    shown: list[str] = field(default_factory=list)

    def save(self) -> None:
        """Writes it, whole or not at all."""
        cells = {key: asdict(cell) for key, cell in self.cells.items()}
        write_json(self.path, {"shown": self.shown, "cells": cells})

    def has(self, key: str) -> bool:
        """Whether a cell is finished and its sound is there."""
        return key in self.cells and (self.path.parent / self.cells[key].file).is_file()


def read_sheet(folder: Path, must_exist: bool = False) -> Sheet:
    """The sheet of a grid's folder, an empty one where there is none; a UsageError where it is something else."""
    path = folder / SHEET
    if not must_exist and not path.exists():
        return Sheet(path)
    try:
        found = json.loads(read_bytes(path).decode("utf-8"))
        cells = {str(key): _cell(value) for key, value in found["cells"].items()}
        return Sheet(path, cells, [str(key) for key in found["shown"] if key in cells])
    except FAILURES as error:
        raise UsageError(f"{path}: {reason_of(error, path)}. Give the folder that grid.py has written") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UsageError(f"{path}: is no sheet of grid.py. Delete it, or use another --name") from None


def _cell(value: dict[str, Any]) -> Cell:
    cell = Cell(**{entry.name: value[entry.name] for entry in fields(Cell)})
    texts = [cell.song, cell.command, cell.file, *cell.settings, *cell.settings.values()]
    if not all(isinstance(text, str) for text in texts) or Path(cell.file).parts[:1] != (CELLS,) or ".." in cell.file:
        raise ValueError
    return cell
