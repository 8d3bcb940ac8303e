"""The page of an evaluation: one HTML file that holds its tables, players and pictures and loads nothing."""

import base64
import io
import math
from dataclasses import dataclass
from html import escape

import numpy as np
import soundfile

from modules.evaluation.table import MEASURES, Means, Row, as_text, describe

_BLOCK = 65536  # samples; libsndfile's Vorbis encoder puts what it is given at once on the stack
_FORBIDDEN = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@dataclass(frozen=True)
class Exhibit:
    """What the page shows of a row: addresses (`data:...`) of both sounds and the picture, "" for what is left out."""

    row: Row
    source_uri: str = ""
    result_uri: str = ""
    picture_uri: str = ""


@dataclass(frozen=True)
class Page:
    """All that is on the page.

    Args:
        title: its heading.
        facts: name and value of what was evaluated and how.
        exhibits: the rows.
        summary: means of them.
        notes: sentences on what is missing or failed.
    """

    title: str
    facts: dict[str, str]
    exhibits: list[Exhibit]
    summary: list[Means]
    notes: list[str]


def audio_uri(wav: np.ndarray, rate: int) -> str:
    """The address of a sound (T,) in [-1, 1] at `rate` Hz that holds the sound itself, as Ogg Vorbis."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", rate, 1, "VORBIS", format="OGG") as file:
        for start in range(0, len(wav), _BLOCK):
            file.write(np.clip(wav[start : start + _BLOCK], -1, 1))
    return _data_uri("audio/ogg", buffer.getvalue())


def picture_uri(png: bytes) -> str:
    """The address of a picture that holds the picture itself."""
    return _data_uri("image/png", png)


def build_page(page: Page) -> str:
    """The HTML of a page."""
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in page.facts.items())
    notes = "".join(f"<li>{escape(note)}</li>" for note in page.notes)
    parts = [
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(page.title)}</title>',
        f'<meta http-equiv="Content-Security-Policy" content="{_FORBIDDEN}">',
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>',
        f"<h1>{escape(page.title)}</h1><dl>{facts}</dl>",
        f"<h2>Notes</h2><ul>{notes}</ul>" if notes else "",
        "<h2>Means, with 95 % bootstrap intervals over the clips</h2>",
        _means_table(page.summary),
        "<h2>Clips</h2><p>A click on a heading sorts by it.</p>",
        _rows_table([exhibit.row for exhibit in page.exhibits]),
        "<h2>Sounds and pictures</h2>",
        *(_card(number, exhibit) for number, exhibit in enumerate(page.exhibits, start=1)),
        f"<script>{_SCRIPT}</script></body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _means_table(summary: list[Means]) -> str:
    head = "".join(f"<th>{escape(means.speaker)}</th>" for means in summary)
    lines = []
    for measure in MEASURES:
        found = [means.intervals.get(measure.name) for means in summary]
        cells = "".join(
            f'<td title="{interval.count} clips">{describe(interval, measure.digits)}</td>' if interval else "<td></td>"
            for interval in found
        )
        lines.append(f"<tr><th>{escape(measure.title)}</th>{cells}<td class=text>{escape(measure.meaning)}</td></tr>")
    return f"<div><table><thead><tr><th></th>{head}<th></th></tr></thead><tbody>{''.join(lines)}</tbody></table></div>"


def _rows_table(rows: list[Row]) -> str:
    titles = ["#", "source", "speaker", "seconds", "transpose", *(measure.title for measure in MEASURES)]
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    lines = []
    for number, row in enumerate(rows, start=1):
        texts = f"<td class=text>{escape(row.source)}</td><td class=text>{escape(row.speaker)}</td>"
        numbers = [f"{row.seconds:.1f}", f"{row.transpose:+d}"]
        numbers += [as_text(_known(row.values.get(measure.name)), measure.digits) for measure in MEASURES]
        cells = "".join(f"<td>{text}</td>" for text in numbers)
        lines.append(f'<tr><td><a href="#clip-{number}">{number}</a></td>{texts}{cells}</tr>')
    return f"<div><table class=sortable><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"


def _card(number: int, exhibit: Exhibit) -> str:
    row = exhibit.row
    title = f"{number}. {escape(row.source)} in the voice of {escape(row.speaker)}"
    players = [
        f'<figure><figcaption>{name}</figcaption><audio controls preload="none" src="{uri}"></audio></figure>'
        for name, uri in (("source", exhibit.source_uri), ("result", exhibit.result_uri))
        if uri
    ]
    alt = f"waveforms, mel spectra and pitch of {escape(row.source)} and its result"
    picture = f'<img src="{exhibit.picture_uri}" alt="{alt}" loading="lazy">' if exhibit.picture_uri else ""
    where = f"<p><code>{escape(row.result)}</code></p>"
    return f'<section id="clip-{number}"><h3>{title}</h3>{"".join(players)}{where}{picture}</section>'


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


_STYLE = """
:root { color-scheme: light dark; --back: #fff; --ink: #1b1b1b; --line: #ccc; --head: #f0f0f0; --link: #0b57a4 }
@media (prefers-color-scheme: dark) {
  :root { --back: #181818; --ink: #e4e4e4; --line: #444; --head: #262626; --link: #8ab8ef }
}
body { background: var(--back); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto;
  max-width: 76rem; padding: 0 1rem }
a { color: var(--link) }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem } dd { margin: 0; overflow-wrap: anywhere }
div { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: right; white-space: nowrap }
thead th { background: var(--head); white-space: normal } tbody th, .text { text-align: left }
.sortable thead th { cursor: pointer } [aria-sort=ascending]::after { content: " \\25b2" }
[aria-sort=descending]::after { content: " \\25bc" }
section { border-top: 1px solid var(--line); margin-top: 1.5rem }
figure { display: inline-block; margin: 0 1rem .5rem 0 } img { max-width: 100%; background: #fff }
"""

_SCRIPT = """
for (const head of document.querySelectorAll(".sortable thead th")) head.onclick = () => {
  const body = head.closest("table").tBodies[0], column = head.cellIndex;
  const falls = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", falls ? "descending" : "ascending");
  const text = row => row.cells[column].textContent, sign = falls ? -1 : 1;
  const compare = (a, b) => {
    if (!text(a) || !text(b)) return !text(a) - !text(b);  // empty cells come last
    const difference = text(a) - text(b);
    return sign * (isNaN(difference) ? text(a).localeCompare(text(b)) : difference);
  };
  body.append(...[...body.rows].sort(compare));
};
"""
