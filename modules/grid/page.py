"""The page of a grid: players in an order that says nothing, all equally loud; one file that loads nothing."""

import base64
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from modules.audio.data_uri import audio_uri
from modules.audio.io import read
from modules.audio.lufs import integrated_loudness
from modules.grid.scores import MEASURES
from modules.grid.sheet import Cell, Sheet

EXACT_SECONDS = 480.0  # of sound in a page: up to here it is FLAC, above Ogg Vorbis
MOST_SECONDS = 9000.0
_BYTES_PER_SECOND = {True: 60_000, False: 15_000}  # of the page, for a second in FLAC or Vorbis, about


@dataclass(frozen=True)
class Player:
    """One cell on the page."""

    id: str
    letter: str  # what listeners call it
    uri: str  # its sound


@dataclass(frozen=True)
class Song:
    """The players of one song."""

    name: str
    seconds: float
    uri: str  # the song itself, as loud as its players
    lufs: float  # loudness of them all
    lowest_gain_db: float  # by how much the loudest was turned down
    players: tuple[Player, ...]


def page_bytes(seconds: float) -> int:
    """About how large a page with so many seconds of sound in all becomes."""
    return round(seconds * _BYTES_PER_SECOND[seconds <= EXACT_SECONDS])


def build_page(name: str, sheet: Sheet, sources: Mapping[str, Path]) -> str:
    """The page of the cells that a sheet shows; `sources` are their songs by name, as they were converted."""
    from jinja2 import Environment, FileSystemLoader

    cells = {key: sheet.cells[key] for key in sheet.shown}
    exact = sum(cell.seconds for cell in cells.values()) <= EXACT_SECONDS
    songs, bar = [], tqdm(desc="page", total=len(cells), unit="cell", leave=False, dynamic_ncols=True, delay=2)
    with bar:
        for song in dict.fromkeys(cell.song for cell in cells.values()):
            ids = blind_order([key for key, cell in cells.items() if cell.song == song])
            files = [sheet.path.parent / cells[key].file for key in ids]
            songs.append(_song(song, sources[song], dict(zip(ids, files)), exact))
            bar.update(len(ids))
    loader = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    facts = {"grid": name, "page": _digest(sorted(cells)), "measures": list(MEASURES.items())}
    return pages.get_template("grid.html").render(name=name, songs=songs, facts=facts, answers=_answers(cells))


def _song(name: str, source: Path, files: Mapping[str, Path], exact: bool) -> Song:
    sounds = [read(path) for path in (source, *files.values())]
    gains, lufs = equal_gains([integrated_loudness(wav, rate) for wav, rate in sounds])
    uris = [audio_uri(wav * np.float32(gain), rate, exact) for (wav, rate), gain in zip(sounds, gains)]
    players = (Player(key, letters(index), uri) for index, (key, uri) in enumerate(zip(files, uris[1:])))
    seconds = max(len(wav) / rate for wav, rate in sounds)
    return Song(name, seconds, uris[0], lufs, 20 * float(np.log10(min(gains))), tuple(players))


def equal_gains(levels: Sequence[float]) -> tuple[list[float], float]:
    """Linear gains that bring sounds of these loudnesses (LUFS) to that of the quietest, and that; nothing gets louder,
    so nothing clips. What is silent stays as it is."""
    heard = [level for level in levels if np.isfinite(level)]
    wanted = min(heard, default=0.0)
    return [10 ** ((wanted - level) / 20) if np.isfinite(level) else 1.0 for level in levels], wanted


def blind_order(ids: Sequence[str]) -> list[str]:
    """The ids in an order that says nothing of how they were made, and is the same whenever they are."""
    shuffled = sorted(ids)
    random.Random(_digest(shuffled)).shuffle(shuffled)
    return shuffled


def letters(index: int) -> str:
    """A, B, ... Z, AA, AB, ... for 0, 1, ..."""
    text = ""
    while index >= 0:
        text = chr(ord("A") + index % 26) + text
        index = index // 26 - 1
    return text


def _answers(cells: Mapping[str, Cell]) -> str:
    """What is what, in letters that nobody reads by chance."""
    plain = {
        key: {"settings": one.settings, "scores": one.scores, "command": one.command} for key, one in cells.items()
    }
    return base64.b64encode(json.dumps(plain).encode("ascii")).decode("ascii")


def _digest(ids: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(ids).encode("ascii")).hexdigest()[:16]
