"""What doctor.py writes: plain values for --json, and the page for --html."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modules.audio.data_uri import audio_uri
from modules.audio.mono import MonoFile
from modules.doctor.findings import LEVELS, Finding, by_weight
from modules.doctor.pitch import Pitch, coverage
from modules.doctor.sounds import Examination, Sound
from modules.errors import FAILURES

PAGE_MARK = "doctor.py of VITS-SVC"  # in a page's head
_MOST_PLAYERS = 24
_PLAYED, _LOOKED = 8.0, 10  # seconds of a player: the loudest of so many parts of that length at the start
_SUNG_SECONDS = 0.2  # of a note: less is a mistake of the predictor
_LENGTH_STEPS = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 60, 120)  # seconds, of the chart


@dataclass(frozen=True)
class Chart:
    """Bars with a name each."""

    title: str
    bars: tuple[tuple[str, float], ...]  # name and height

    @property
    def highest(self) -> float:
        """Of the bars, never 0."""
        return max((height for _, height in self.bars), default=0) or 1.0


def plain(findings: list[Finding], examinations: Iterable[Examination]) -> dict[str, Any]:
    """All that was found, in values that JSON can hold."""
    speakers = [
        {"section": examined.section, "speaker": name, "files": len(sounds), "minutes": round(_minutes(sounds), 3)}
        | {"seconds_by_note": dict(coverage(_pitch_of(sounds)))}
        for examined in examinations
        for name, sounds in examined.sounds.items()
    ]
    counts = {level: sum(finding.level == level for finding in findings) for level in LEVELS}
    rows = [{**vars(finding), "files": [path.as_posix() for path in finding.files]} for finding in findings]
    return {"counts": counts, "findings": rows, "speakers": speakers}


def build_page(findings: list[Finding], examinations: Iterable[Examination]) -> str:
    """The page, one HTML file that loads nothing: findings, charts of each speaker, and the worst files as players."""
    from jinja2 import Environment, FileSystemLoader

    loader = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    charts = {
        f"{name} ({examined.section})": _charts(sounds)
        for examined in examinations
        for name, sounds in examined.sounds.items()
        if sounds
    }
    sections = dict.fromkeys(finding.section for finding in findings)
    groups = {section: by_weight([one for one in findings if one.section == section]) for section in sections}
    template = pages.get_template("report.html")
    return template.render(mark=PAGE_MARK, groups=groups, charts=charts, players=_players(findings))


def is_own_page(path: Path) -> bool:
    """Whether `build_page` made a file."""
    with path.open("rb") as file:
        return PAGE_MARK.encode() in file.read(1024)


def _minutes(sounds: dict[Path, Sound]) -> float:
    return sum(sound.seconds for sound in sounds.values()) / 60


def _pitch_of(sounds: dict[Path, Sound]) -> Pitch:
    """Of all of them together."""
    return sum((sound.pitch for sound in sounds.values() if sound.pitch is not None), Pitch())


def _charts(sounds: dict[Path, Sound]) -> list[Chart]:
    seconds = [sound.seconds for sound in sounds.values()]
    counts, _ = np.histogram(seconds, [*_LENGTH_STEPS, np.inf])
    lengths = [(f"from {low} s", count) for low, count in zip(_LENGTH_STEPS, counts.tolist())]
    notes = coverage(_pitch_of(sounds))
    return [Chart("files by length", _filled(lengths, 1)), Chart("seconds of each note", _filled(notes, _SUNG_SECONDS))]


def _filled(bars: list[tuple[str, float]], least: float) -> tuple[tuple[str, float], ...]:
    """The bars without the low ones at both ends."""
    high = [index for index, (_, height) in enumerate(bars) if height >= least]
    return tuple(bars[high[0] : high[-1] + 1]) if high else ()


def _players(findings: list[Finding]) -> list[tuple[str, list[str], str]]:
    """The worst files: name, what was found in it, and the address of its sound."""
    texts: dict[Path, list[str]] = {}
    bad = [finding for finding in by_weight(findings) if finding.level != "info"]
    for rank in range(max((len(finding.files) for finding in bad), default=0)):  # the worst of each finding first
        for finding in bad:
            if rank < len(finding.files):
                texts.setdefault(finding.files[rank], []).append(finding.kind)
    players = []
    for path, kinds in texts.items():
        if len(players) == _MOST_PLAYERS:
            break
        try:
            players.append((str(path), kinds, _excerpt(path)))
        except FAILURES:  # what cannot be read is a finding already
            continue
    return players


def _excerpt(path: Path) -> str:
    file = MonoFile(path)
    parts = [block for block, _ in zip(file.blocks(_PLAYED), range(_LOOKED))]
    return audio_uri(max(parts, key=lambda part: float(np.square(part).sum())), file.rate)
