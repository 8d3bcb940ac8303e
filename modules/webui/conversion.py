"""A conversion or cover that the page is asked for, verified, and what came of it. Its controls are in `convert.py`."""

import argparse
import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.errors import UsageError
from modules.text import printable
from modules.webui import forms, jobs
from modules.webui.jobs import Job, Stage
from modules.webui.workspace import CURVES, SONGS, config_of, inside

# Flags that are no settings: the lists of voices, speakers and songs give them, or the page sets them itself.
OWN = ("model_path", "spk_list", "clean_names", "json", "resume")
_LINE = '{"source": '  # how the JSON lines of the scripts begin


@dataclass(frozen=True)
class Form:
    """One of the tabs that convert songs."""

    script: str
    kind: str  # of its jobs; the ids of its controls begin with it
    songs: str  # what it converts

    @property
    def one_at_a_time(self) -> dict[str, Any]:
        """For gradio's events that start one; the others wait."""
        return {"concurrency_limit": 1, "concurrency_id": self.kind}


CONVERT = Form("inference_main.py", "convert", "a voice alone, without accompaniment")
COVER = Form("cover.py", "cover", "with their music")


def verify(
    parser: argparse.ArgumentParser,
    model: str | None,
    songs: Sequence[str] | None,
    speakers: Sequence[str] | None,
    settings: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The values of the flags, every file among them within the workspace; a UsageError names what is not.

    `songs` are names in raw/ or paths, `settings` are values of the other flags by name.
    """
    if not isinstance(settings or {}, Mapping):
        raise UsageError("settings: expected a flag's name and value, such as {'trans': 3}")
    values = {name: value for name, value in (settings or {}).items() if value is not None and value != ""}
    if given := [name for name in values if name in OWN]:
        raise UsageError(f"{given[0]} is no setting: model, songs and speakers are given apart")
    if not songs and not values.get("vocals"):
        raise UsageError("no song is chosen: upload one, or choose from those in raw/")
    if isinstance(values.get("f0_out"), bool):  # the page's box to tick; a folder that holds no other curves
        values |= {"f0_out": f"{CURVES.as_posix()}/{time.strftime('%Y%m%d-%H%M%S')}"} if values.pop("f0_out") else {}
    for name, action in forms.actions(parser).items():
        if action.metavar == "FILE" and name in values:
            values[name] = inside(values[name], must_exist=name != "f0_out").as_posix()
    if model or not values.get("only_diffusion"):
        if not model:
            raise UsageError("no voice is chosen: choose one, or add its files")
        values["model_path"] = inside(model).as_posix()
        values.setdefault("config_path", inside(config_of(Path(values["model_path"]))).as_posix())
    values["clean_names"] = [_name_of(song) for song in _listed(songs or [])]
    return {**values, "spk_list": _listed(speakers or [])}


def start(form: Form, parser: argparse.ArgumentParser, values: Mapping[str, Any], resume: bool = False) -> Job:
    """Starts the conversion with these verified values; with `resume` it goes on where an earlier one stopped."""
    going_on = {"resume": True} if resume and form != COVER else {}  # covers always do
    command = forms.command(form.script, parser, {**values, "json": True, **going_on})
    return jobs.start(form.kind, [Stage(form.kind.capitalize(), command)], values=dict(values))


def newest(form: Form) -> Job | None:
    """The conversion that was started last."""
    return next(iter(jobs.find(form.kind)), None)


def results_of(job: Job) -> list[dict[str, Any]]:
    """What the script's JSON lines say of the finished files, each once."""
    found: dict[str, dict[str, Any]] = {}
    for line in job.lines():
        _, begins, rest = line.partition(_LINE)
        with contextlib.suppress(ValueError, KeyError):
            about = json.loads(begins + rest) if begins else {}
            found[about["result"]] = about
    return list(found.values())


def find_result(result: str) -> dict[str, Any]:
    """What is known of a result: the newest conversion that made it says that."""
    for job in (*jobs.find(CONVERT.kind), *jobs.find(COVER.kind)):
        for about in results_of(job):
            if about["result"] == result:
                return about
    raise UsageError(f"{printable(result)}: was not made on this page")


def errors_of(job: Job) -> list[str]:
    """What the script said of files that could not be converted."""
    return [line.removeprefix("error: ") for line in job.log().splitlines() if line.startswith("error: ")]


def log_of(job: Job) -> str:
    """What the script said to people."""
    return "\n".join(line for line in job.log().splitlines() if _LINE not in line)


def title_of(about: Mapping[str, Any]) -> str:
    """A result in a list: song, voice and transposition."""
    return f"{Path(about['source']).name} → {about['speaker']} ({about['transpose']:+g})"


def _name_of(song: str) -> str:
    """What -n is given: the song's place in raw/, else its whole path, which nothing in raw/ can stand before."""
    in_songs = inside(SONGS / song, must_exist=False)
    path = in_songs if in_songs.is_file() else inside(song)
    if not path.is_file():
        raise UsageError(f"{printable(song)}: is a folder; name the files in it")
    if path.is_relative_to(SONGS) and not path.relative_to(SONGS).as_posix().startswith("-"):
        return path.relative_to(SONGS).as_posix()
    return path.resolve().as_posix()


def _listed(values: Any) -> list[str]:
    return list(map(str, [values] if isinstance(values, str) else values))
