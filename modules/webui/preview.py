"""A song in the voice that is being trained, as it is now and as it was at evaluations."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.errors import FAILURES, UsageError
from modules.inference.arguments import RECOMMENDED
from modules.text import printable
from modules.webui import forms, jobs, panel, stages, workspace
from modules.webui.jobs import Job, Stage
from modules.weights.names import list_checkpoints

if TYPE_CHECKING:
    import gradio

    from modules.webui.page import Parsers

KIND = "preview"
_SCRIPT = "inference_main.py"
_POLL_SECONDS = 0.3


def build_preview(page: "gradio.Blocks", parsers: "Parsers", run: "gradio.Textbox") -> None:
    """Puts the player into the page that is being built; `run` holds the name of the run."""
    import gradio

    with gradio.Row():
        song = gradio.Dropdown(
            label="song", info="a voice alone, in raw/", allow_custom_value=True, min_width=240, elem_id="preview_song"
        )
        speaker = gradio.Dropdown(
            label="speaker",
            info="of the model; else its first",
            allow_custom_value=True,
            min_width=240,
            elem_id="preview_speaker",
        )
    with gradio.Row():
        sample = gradio.Button("Use the sample song", min_width=200, elem_id="preview_sample")
        refresh = gradio.Button("Refresh", min_width=200, elem_id="preview_refresh")
    button = gradio.Button("Sing with the newest model", variant="primary", elem_id="preview_sing")
    state = gradio.HTML(elem_id="preview_state")
    looks = {"interactive": False, "buttons": ["download"]}  # without the one that shares it on the web
    player = gradio.Audio(label="the song in this voice", elem_id="preview_player", **looks)
    sung = gradio.Dropdown(
        label="sung at evaluations", info="--preview of the training", visible=False, elem_id="preview_sung"
    )

    def preview(*values: Any) -> Iterator[tuple[Any, Any]]:
        yield from _convert(parsers, *values)

    private: dict[str, Any] = {"api_visibility": "private"}
    quick = {"queue": False, "show_progress": "hidden", **private}
    lists = [song, speaker]
    for event in (page.load, refresh.click, run.submit, run.blur):
        event(_choices, [run, *lists], [*lists, sung], **quick)
    sung.input(panel.refusals_shown(lambda path: str(workspace.inside(path))), sung, player, **private)
    sample.click(panel.refusals_shown(_take_sample), None, song, **private)
    limits = {"concurrency_limit": 1, "concurrency_id": KIND, "show_progress": "hidden"}
    button.click(panel.refusals_shown(preview), [run, *lists], [state, player], **limits, **private)


def preview_stage(parsers: "Parsers", run: str, song: str, speaker: str) -> Stage:
    """The command line that sings a song with the newest model of a run.

    Raises:
        UsageError: there is no model yet, or no song was chosen.
    """
    folder = workspace.LOGS / stages.run_of({"training": {"model": run}})
    saved = list_checkpoints(folder, "G")
    if not saved:
        raise UsageError(f"{folder} holds no G_*.pth yet. Wait until the training has saved one")
    if not song:
        raise UsageError("choose a song; those in raw/ are listed")
    model = workspace.inside(saved[-1])
    config = workspace.inside(workspace.config_of(model))
    files = {"model_path": model.as_posix(), "config_path": config.as_posix(), "json": True}
    target = speaker or next(iter(workspace.speakers_of(config)), "")
    source = workspace.inside(song)
    if workspace.SONGS in source.parents:  # else its result would be in results/raw/
        source = source.relative_to(workspace.SONGS)
    names = {"clean_names": [source.as_posix()], "spk_list": [target]}
    command = forms.command(_SCRIPT, parsers[_SCRIPT], {**files, **names, **RECOMMENDED})
    return Stage(f"{model.name} sings {Path(song).name}", command)


def result_of(job: Job) -> Path | None:
    """The song that a job has made."""
    for line in reversed(job.lines()):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return workspace.inside(json.loads(line)["result"])
    return None


def _convert(parsers: "Parsers", run: str, song: str, speaker: str) -> Iterator[tuple[Any, Any]]:
    import gradio

    stage = preview_stage(parsers, run or "", song or "", speaker or "")
    while jobs.running(KIND) is not None:  # of a page that was closed
        yield "<p>waiting for another song</p>", gradio.skip()
        time.sleep(_POLL_SECONDS)
    job = jobs.start(KIND, [stage], run=printable(run))
    for text in panel.follow(job):
        yield text, gradio.skip()
    if job.status == "done" and (result := result_of(job)) is not None:
        yield gradio.skip(), str(result)


def _choices(run: str, song: str | None, speaker: str | None) -> tuple[Any, Any, Any]:
    """What there is to choose from, and what was sung already; what was chosen stays."""
    import gradio

    songs = [path.as_posix() for path in workspace.songs()]
    try:
        run = stages.run_of({"training": {"model": run}})
        speakers = workspace.speakers_of(workspace.inside(workspace.LOGS / run / "config.json"))
        sung = [path.as_posix() for path in workspace.previews(run)]
    except FAILURES:
        speakers, sung = [], []  # not trained yet
    chosen = [song or next(iter(songs), None), speaker if speaker in speakers else next(iter(speakers), None)]
    lists = [gradio.update(choices=found, value=value) for found, value in zip((songs, speakers), chosen)]
    return *lists, gradio.update(choices=sung, value=None, visible=bool(sung))


def _take_sample() -> Any:
    import gradio

    path = workspace.copy_sample_song().as_posix()
    return gradio.update(choices=[song.as_posix() for song in workspace.songs()], value=path)
