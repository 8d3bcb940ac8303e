"""What came of a conversion: source beside result, the figures of both, and their picture."""

import argparse
import html
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.files import make_folder
from modules.inference.results import RESULTS
from modules.webui import forms, jobs
from modules.webui.conversion import CONVERT, Form, find_result
from modules.webui.jobs import Job, Stage
from modules.webui.panel import follow, refusals_shown
from modules.webui.workspace import inside

if TYPE_CHECKING:
    from gradio import Radio

SCRIPT, KIND = "compare.py", "picture"
PICTURES = RESULTS / "pictures"


def build_results(form: Form, parser: argparse.ArgumentParser) -> "Radio":
    """The view, and the list of results that says which is shown; `parser` is that of `SCRIPT`."""
    import gradio

    chosen = gradio.Radio([], label="Results", elem_id=f"{form.kind}_results", visible="hidden")
    with gradio.Column(visible=False, elem_id=f"{form.kind}_result") as view:
        with gradio.Row():
            source = gradio.Audio(
                label="Song", type="filepath", interactive=False, buttons=["download"], elem_id=f"{form.kind}_source"
            )
            sung = gradio.Audio(
                label="Result", type="filepath", interactive=False, buttons=["download"], elem_id=f"{form.kind}_sung"
            )
        figures = gradio.HTML(elem_id=f"{form.kind}_figures")
        with gradio.Row():
            download = gradio.DownloadButton("Download the result", size="md", elem_id=f"{form.kind}_download")
            curve = gradio.DownloadButton(
                "Download the F0 curve", size="md", visible=False, elem_id=f"{form.kind}_curve"
            )
        state = gradio.HTML(elem_id=f"{form.kind}_picture_state")
        picture = gradio.Image(
            show_label=False,
            visible=form == CONVERT,
            alt_text="waveform, mel spectrum and pitch of the song and of the result",
            type="filepath",
            interactive=False,
            buttons=["download", "fullscreen"],
            elem_id=f"{form.kind}_picture",
        )

    @refusals_shown
    def draw(result: str | None) -> Iterator[tuple[str, str | None]]:
        yield "", None
        if not result or form != CONVERT:  # there is no melody to be found in music
            return
        about = find_result(result)
        job = _drawn(about) or _start(parser, about)
        for shown in follow(job):
            yield shown, None
        if job.status == "done":
            yield f"<p>{html.escape(melody_of(job))}</p>", job.about["picture"]

    chosen.change(
        show, chosen, [view, source, sung, figures, download, curve], show_progress="hidden", api_visibility="private"
    )
    chosen.change(
        draw,
        chosen,
        [state, picture],
        show_progress="hidden",
        concurrency_limit=1,
        concurrency_id=KIND,
        api_visibility="private",
    )
    return chosen


@refusals_shown
def show(result: str | None) -> tuple[Any, ...]:
    """Both players, the figures, the file of a result and its F0 curve, where one was written."""
    import gradio

    if not result:
        none = gradio.DownloadButton(value=None)
        return gradio.Column(visible=False), None, None, "", none, none
    about = find_result(result)
    file = inside(about["result"])
    source = inside(about["source"])
    playable = None if source.is_absolute() else str(source)  # gradio serves what lies in the workspace
    curve = about.get("f0_curve")
    curve = gradio.DownloadButton(value=str(inside(curve)) if curve else None, visible=bool(curve))
    view, download = gradio.Column(visible=True), gradio.DownloadButton(value=str(file))
    return view, playable, str(file), describe(about), download, curve


def describe(about: Mapping[str, Any]) -> str:
    """The key figures of a result, as HTML."""
    rows = "".join(f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in figures_of(about).items())
    return f'<dl class="figures">{rows}</dl>'


def figures_of(about: Mapping[str, Any]) -> dict[str, str]:
    """The key figures of a result, as its JSON line has them."""
    found = {
        "File": about["result"],
        "Speaker": about["speaker"],
        "Transposition": f"{about['transpose']:+g} semitones",
    }
    if about.get("already_there"):
        return {**found, "Made": "before, and kept"}
    found["Length"] = f"{about['seconds']:.1f} s"
    factor = f"real-time factor {about['realtime_factor']:.2f}"
    found["Made in"] = f"{about['elapsed_seconds']:.1f} s, {factor}"
    if about["level_db"] is not None:
        found["Level"] = f"{about['level_db']:+.1f} dB against the song"
    if about["f0_range_hz"]:
        found["Pitch"] = "{:.0f} to {:.0f} Hz".format(*about["f0_range_hz"])
    if about["clipped_samples"]:
        found["Clipped"] = f"{about['clipped_samples']} samples"
    return found


def melody_of(job: Job) -> str:
    """What compare.py printed of the two melodies."""
    return next((line for line, after in pairwise(job.lines()) if after.startswith("Picture: ")), "")


def _drawn(about: Mapping[str, Any]) -> Job | None:
    """The job that drew this result as it is now."""
    wanted = _wanted(about)
    found = (job for job in jobs.find(KIND) if job.about == wanted and job.status == "done")
    return next((job for job in found if Path(wanted["picture"]).is_file()), None)


def _start(parser: argparse.ArgumentParser, about: Mapping[str, Any]) -> Job:
    """Draws a result, once nothing else is drawn."""
    while (other := jobs.running(KIND)) is not None:
        other.wait(1)
    wanted = _wanted(about)
    make_folder(Path(wanted["picture"]).parent)
    values = {"source": wanted["source"], "result": wanted["result"], "output": wanted["picture"]}
    return jobs.start(KIND, [Stage("Compare", forms.command(SCRIPT, parser, values))], **wanted)


def _wanted(about: Mapping[str, Any]) -> dict[str, Any]:
    source, result = inside(about["source"]), inside(about["result"])
    below = result.relative_to(RESULTS) if result.is_relative_to(RESULTS) else Path(result.name)
    picture = inside(PICTURES / f"{below.as_posix()}.png", must_exist=False)
    return {
        "source": source.as_posix(),
        "result": result.as_posix(),
        "picture": picture.as_posix(),
        "written": result.stat().st_mtime_ns,
    }
