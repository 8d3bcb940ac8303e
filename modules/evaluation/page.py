"""The page of an evaluation: one HTML file that holds its tables, players and pictures and loads nothing."""

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from modules.evaluation.table import MEASURES, Row, Summary, as_text, describe

_BLOCK = 65536  # samples; libsndfile's Vorbis encoder puts what it is given at once on the stack


@dataclass(frozen=True)
class Clip:
    """A row and what the page shows of it: addresses (`data:...`), "" for what is left out."""

    row: Row
    source_uri: str = ""
    result_uri: str = ""
    picture_uri: str = ""


def audio_uri(wav: np.ndarray, rate: int) -> str:
    """The address of a sound (T,) in [-1, 1] at `rate` Hz that holds the sound itself, as Ogg Vorbis."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", rate, 1, "VORBIS", format="OGG") as file:
        for start in range(0, len(wav), _BLOCK):
            file.write(np.clip(wav[start : start + _BLOCK], -1, 1))
    return data_uri("audio/ogg", buffer.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    """The address of a file of that MIME type that holds the file itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def build_page(title: str, facts: dict[str, str], clips: list[Clip], summary: Summary, notes: list[str]) -> str:
    """The HTML of `report.html`.

    Args:
        facts: name and value of what was evaluated and how.
        notes: sentences on what is missing or failed.
    """
    from jinja2 import Environment, FileSystemLoader

    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    pages.globals |= {"measures": MEASURES, "describe": describe, "finite_text": _finite_text}
    return pages.get_template("report.html").render(title=title, facts=facts, clips=clips, summary=summary, notes=notes)


def _finite_text(value: float | None, digits: int) -> str:
    return as_text(value, digits) if value is not None and math.isfinite(value) else ""
