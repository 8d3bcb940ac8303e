"""The tab Convert: a voice, songs and settings on the left, what comes of them on the right."""

import argparse
import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.errors import UsageError
from modules.inference.arguments import RECOMMENDED
from modules.registry import declared_names
from modules.webui import conversion, forms, jobs, panel, pickers, workspace
from modules.webui.conversion import KIND, OWN, SCRIPT
from modules.webui.endpoints import ONE_AT_A_TIME, add_endpoints
from modules.webui.jobs import Job
from modules.webui.panel import refusals_shown
from modules.webui.pickers import Pickers
from modules.webui.results import build_results

if TYPE_CHECKING:
    import gradio
    from gradio.components import Component

    from modules.webui.page import Parsers

SAMPLE_SPEAKER = "be_ksenya_f"  # of the included voice: her notes lie where those of the sample song do
MAIN = ("trans", "f0_predictor", "wav_format")  # settings that are always in sight
FORMATS = ("flac", "wav", "mp3", "ogg")  # others can be typed
DEVICES = [("the best there is", ""), "cpu", "cuda", "cuda:1", "mps"]  # torch knows this machine's, but takes seconds
ENDED_EARLY = ("stopped", "interrupted", "failed")  # Resume goes on from there
Controls = dict[str, "Component"]  # name of a flag -> its control
# In a narrow window the progress is below the settings; half a second later, results of before are gone from there.
_SHOW_STATUS = """() => {
  const status = document.getElementById("convert_status");
  if (innerWidth <= 700) setTimeout(() => status.scrollIntoView({block: "center"}), 500);
}"""
_PRIVATE = {"api_visibility": "private"}


def build_convert(page: "gradio.Blocks", parsers: "Parsers") -> None:
    """Puts the tab into the page that is being built."""
    import gradio

    parser = parsers[SCRIPT]
    with gradio.Row():
        with gradio.Column(min_width=320):
            text = "Try it: the included voice sings the sample song"
            sample = gradio.Button(text, interactive=False, elem_id="try")  # until the lists are filled
            model, speakers, refresh = pickers.build_voice()
            pickers.build_more_voices(model, parsers[pickers.INSPECT])
            songs = pickers.build_songs()
            controls = build_settings(parser)
        with gradio.Column(min_width=320):
            start, stop, resume = build_buttons()
            progress = build_progress(stop, resume, parsers)
    chosen = Pickers(model, speakers, songs)
    connect_lists(page, chosen, controls, refresh, sample)
    connect_sample(sample, chosen, controls)
    connect_jobs(page, parser, [model, songs, speakers, *controls.values()], list(controls), progress, start)
    add_endpoints(parser)


def build_settings(parser: argparse.ArgumentParser) -> Controls:
    """A control for each flag that is not given otherwise: the main ones, then the others as --help groups them."""
    import gradio

    known = forms.actions(parser)
    with gradio.Group():
        controls = {name: build_control(known[name]) for name in MAIN[:1]}
        with gradio.Row():
            controls |= {name: build_control(known[name]) for name in MAIN[1:]}
    words = forms.command(SCRIPT, parser, RECOMMENDED)[1:]
    recommended = gradio.Button(f"Recommended settings ({' '.join(words)})", size="sm", elem_id="convert_recommended")
    for title, names in forms.groups(parser).items():
        if others := [name for name in names if name not in (*MAIN, *OWN)]:
            with gradio.Accordion(title, open=False, elem_classes="settings"):
                controls |= {name: build_control(known[name]) for name in others}
    recommended.click(
        lambda: list(RECOMMENDED.values()), None, [controls[name] for name in RECOMMENDED], queue=False, **_PRIVATE
    )
    return controls


def build_control(action: argparse.Action) -> "Component":
    """The control for a setting; lists where it is known what can be chosen, and anything else can be typed."""
    lists = {
        "f0_predictor": declared_names("modules.f0"),
        "wav_format": FORMATS,
        "device": DEVICES,
        "diffusion_model_path": [""],
        "cluster_model_path": [""],
    }
    changes: dict[str, Any] = {"elem_id": f"convert_flag_{action.dest}"}
    if choices := lists.get(action.dest):
        changes |= {"choices": choices, "allow_custom_value": True, "value": action.default or ""}
    return forms.control(action, **changes)


def build_buttons() -> tuple["gradio.Button", "gradio.Button", "gradio.Button"]:
    """Convert, Stop and Resume, which stay in sight in a narrow window."""
    import gradio

    with gradio.Row(elem_id="convert_actions"):
        start = gradio.Button("Convert", variant="primary", elem_id="convert", min_width=100, scale=2)
        stop = gradio.Button("Stop", interactive=False, elem_id="convert_stop", min_width=80)
        resume = gradio.Button("Resume", interactive=False, elem_id="convert_resume", min_width=80)
    stop.click(stop_conversion, None, stop, queue=False, **_PRIVATE)
    return start, stop, resume


def build_progress(stop: "gradio.Button", resume: "gradio.Button", parsers: "Parsers") -> list["Component"]:
    """Where `watch` shows its states."""
    import gradio

    status = gradio.HTML(elem_id="convert_status")
    warnings = gradio.HTML(elem_id="convert_warnings")
    with gradio.Accordion("Log", open=False):
        log = gradio.Textbox(show_label=False, lines=10, max_lines=10, elem_classes="log", elem_id="convert_log")
    return [status, warnings, log, build_results(parsers["compare.py"]), stop, resume]


def connect_lists(
    page: "gradio.Blocks", chosen: Pickers, controls: Controls, refresh: "gradio.Button", sample: "gradio.Button"
) -> None:
    """Lists show what is there, and choosing in one sets what belongs to it, in sight."""
    import gradio

    config, files = controls["config_path"], [controls["diffusion_model_path"], controls["cluster_model_path"]]

    @refusals_shown
    def refresh_voices(model: str | None) -> tuple["Component", ...]:
        found = (workspace.diffusion_models(), workspace.retrievals())
        lists = [gradio.Dropdown(choices=["", *(path.as_posix() for path in paths)]) for paths in found]
        return pickers.refresh_voices(model), *lists

    for listen in (page.load, refresh.click):
        listen(refresh_voices, chosen.model, [chosen.model, *files], queue=False, **_PRIVATE)
    page.load(
        lambda songs: (pickers.refresh_songs(songs), gradio.Button(interactive=True)),
        chosen.songs,
        [chosen.songs, sample],
        queue=False,
        **_PRIVATE,
    )
    for listen in (chosen.model.change, config.change):
        inputs = [chosen.model, config, chosen.speakers]
        listen(pickers.show_speakers, inputs, chosen.speakers, show_progress="hidden", **_PRIVATE)
    shallow, only = controls["shallow_diffusion"], controls["only_diffusion"]
    files[0].input(
        lambda path, only: bool(path) and not only, [files[0], only], shallow, show_progress="hidden", **_PRIVATE
    )
    files[1].input(
        lambda path: Path(path or "").suffix in (".json", ".pkl"),
        files[1],
        controls["feature_retrieval"],
        show_progress="hidden",
        **_PRIVATE,
    )


def connect_sample(button: "gradio.Button", chosen: Pickers, controls: Controls) -> None:
    """The first click of a person who never saw the page."""
    import gradio

    @refusals_shown
    def choose_sample() -> list[Any]:
        song = workspace.copy_sample_song().as_posix()
        voice = workspace.inside(workspace.INCLUDED / "G_0.pth")
        known = workspace.speakers_of(workspace.config_of(voice))
        return [
            gradio.Dropdown(choices=pickers.voice_choices(), value=voice.as_posix()),
            gradio.Dropdown(choices=known, value=[SAMPLE_SPEAKER]),
            gradio.Dropdown(choices=pickers.song_choices(), value=[song]),
            *RECOMMENDED.values(),
        ]

    lists = [chosen.model, chosen.speakers, chosen.songs]
    button.click(choose_sample, None, [*lists, *(controls[name] for name in RECOMMENDED)], **_PRIVATE)


def connect_jobs(
    page: "gradio.Blocks",
    parser: argparse.ArgumentParser,
    inputs: list["Component"],
    names: list[str],
    progress: list["Component"],
    start: "gradio.Button",
) -> None:
    """Starting, resuming, and following what runs when the page is opened."""
    import gradio

    @refusals_shown
    def convert_chosen(
        model: str | None, songs: Sequence[str] | None, speakers: Sequence[str] | None, *settings: Any
    ) -> Iterator[tuple[Any, ...]]:
        values = conversion.verify(parser, model, songs, speakers, dict(zip(names, settings)))
        yield from watch_others()
        yield from watch(conversion.start(parser, values))

    @refusals_shown
    def resume_newest() -> Iterator[tuple[Any, ...]]:
        yield from watch_others()
        job = conversion.newest()
        if job is None or job.status not in ENDED_EARLY:
            raise UsageError("no conversion has stopped before its end")
        yield from watch(conversion.start(parser, job.about["values"], resume=True))

    @refusals_shown
    def show_newest() -> Iterator[tuple[Any, ...]]:
        job = conversion.newest()
        yield from [[gradio.skip()] * len(progress)] if job is None else watch(job)

    for button in (start, progress[-1]):  # before the others: gradio does a click's one by one
        button.click(None, js=_SHOW_STATUS, **_PRIVATE)
    shown = {"outputs": progress, "show_progress": "hidden", **_PRIVATE}
    start.click(convert_chosen, inputs, **shown, **ONE_AT_A_TIME)
    progress[-1].click(resume_newest, **shown, **ONE_AT_A_TIME)
    page.load(show_newest, **shown, concurrency_limit=None)


def watch_others() -> Iterator[tuple[Any, ...]]:
    """Shows the conversion that runs until it has ended, since one runs at a time."""
    while (other := jobs.running(KIND)) is not None:
        yield from watch(other)


def watch(job: Job) -> Iterator[tuple[Any, ...]]:
    """States of a conversion until its end: progress, warnings, log, list of results, and which buttons can be used."""
    import gradio

    listed = was_running = None
    for status in panel.follow(job):
        results, is_running = conversion.results_of(job), job.status == "running"
        choices = [(conversion.title_of(about), about["result"]) for about in results]
        chosen = stop = gradio.skip()
        if choices != listed:  # of several, the first is shown until another is chosen
            first = {} if listed else {"value": choices[0][1] if choices else None}
            chosen = gradio.Radio(choices=choices, visible=True if choices else "hidden", **first)
        if is_running != was_running:
            stop = gradio.Button("Stop", interactive=is_running)
        listed, was_running = choices, is_running
        resume = gradio.Button(interactive=job.status in ENDED_EARLY)
        yield status, describe_warnings(job, results), conversion.log_of(job), chosen, stop, resume


def describe_warnings(job: Job, results: Sequence[dict[str, Any]]) -> str:
    """What the script warned of, and which of several songs failed, as HTML."""
    errors = conversion.errors_of(job)
    texts = errors[:-1] if job.status == "failed" else errors  # the last one is told with the status
    several = len({about["speaker"] for about in results}) > 1  # then one text is of several results
    for about in results:
        texts = [*texts, *(f"{about['speaker']}: {text}" if several else text for text in about.get("warnings", []))]
    rows = "".join(f"<li>⚠ {html.escape(text)}</li>" for text in dict.fromkeys(texts))
    return f'<ul class="warnings">{rows}</ul>' if rows else ""


@refusals_shown
def stop_conversion() -> "Component":
    """Stops what runs; the button then offers to kill it."""
    import gradio

    job = jobs.running(KIND)
    if job is None:
        return gradio.Button("Stop", interactive=False)
    job.stop()
    return gradio.Button("Stop at once")
