"""The tabs Convert and Cover: a voice, songs and settings on the left, what comes of them on the right."""

import argparse
import html
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.errors import UsageError
from modules.f0.autotune import CHROMATIC
from modules.inference.arguments import RECOMMENDED
from modules.registry import declared_names
from modules.webui import conversion, forms, jobs, panel, pickers, workspace
from modules.webui.conversion import CONVERT, OWN, Form
from modules.webui.endpoints import add_endpoints
from modules.webui.jobs import Job
from modules.webui.panel import refusals_shown
from modules.webui.pickers import Pickers
from modules.webui.results import build_results

if TYPE_CHECKING:
    import gradio
    from gradio.components import Component

    from modules.webui.page import Parsers

SAMPLE_SPEAKER = "be_ksenya_f"  # of the included voice: her notes lie where those of the sample song do
STEMS = ("vocals", "music")  # sounds that a cover can be given
MAIN = ("trans", "f0_predictor", "wav_format")  # settings that are always in sight
FORMATS = ("flac", "wav", "mp3", "ogg")  # others can be typed
NOTES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")  # as most scales are called
DEVICES = [("the best there is", ""), "cpu", "cuda", "cuda:1", "mps"]  # torch knows this machine's, but takes seconds
ENDED_EARLY = ("stopped", "interrupted", "failed")  # Resume goes on from there
Controls = dict[str, "Component"]  # name of a flag -> its control
# In a narrow window the progress is below the settings; half a second later, results of before are gone from there.
_SHOW_STATUS = """() => {
  const status = document.getElementById("%s_status");
  if (innerWidth <= 700) setTimeout(() => status.scrollIntoView({block: "center"}), 500);
}"""
_PRIVATE = {"api_visibility": "private"}


def build_convert(page: "gradio.Blocks", parsers: "Parsers", form: Form) -> None:
    """Puts a tab into the page that is being built."""
    import gradio

    parser, sample = parsers[form.script], None
    with gradio.Row():
        with gradio.Column(min_width=320):
            if form == CONVERT:
                text = "Try it: the included voice sings the sample song"
                sample = gradio.Button(text, interactive=False, elem_id="try")  # until the lists are filled
            model, speakers, refresh = pickers.build_voice(form)
            if form == CONVERT:
                pickers.build_more_voices(model, parsers[pickers.INSPECT])
            songs = pickers.build_songs(form)
            controls = build_settings(form, parser)
        with gradio.Column(min_width=320):
            start, stop, resume = build_buttons(form)
            progress = build_progress(form, stop, resume, parsers)
    chosen = Pickers(model, speakers, songs)
    connect_lists(page, chosen, controls, refresh)
    if sample is not None:
        connect_sample(page, sample, chosen, controls)
    connect_jobs(page, form, parser, [model, songs, speakers, *controls.values()], list(controls), progress, start)
    add_endpoints(form, parser)


def build_settings(form: Form, parser: argparse.ArgumentParser) -> Controls:
    """A control for each flag that is not given otherwise: the main ones, then the others as --help groups them."""
    import gradio

    known = forms.actions(parser)
    with gradio.Group():
        controls = {name: build_control(form, known[name]) for name in MAIN[:1]}
        with gradio.Row():
            controls |= {name: build_control(form, known[name]) for name in MAIN[1:]}
    words = forms.command(form.script, parser, RECOMMENDED)[1:]
    recommended = gradio.Button(
        f"Recommended settings ({' '.join(words)})", size="sm", elem_id=f"{form.kind}_recommended"
    )
    for title, names in forms.groups(parser).items():
        if others := [name for name in names if name not in (*MAIN, *OWN)]:
            with gradio.Accordion(title, open=False, elem_classes="settings"):
                controls |= {name: build_control(form, known[name]) for name in others}
    recommended.click(
        lambda: list(RECOMMENDED.values()), None, [controls[name] for name in RECOMMENDED], queue=False, **_PRIVATE
    )
    return controls


def build_control(form: Form, action: argparse.Action) -> "Component":
    """The control for a setting; lists where it is known what can be chosen, and anything else can be typed."""
    lists = {
        "f0_predictor": declared_names("modules.f0"),
        "wav_format": FORMATS,
        "device": DEVICES,
        "diffusion_model_path": [""],
        "cluster_model_path": [""],
        **{name: [""] for name in (*STEMS, "f0_in")},
        "scale": [CHROMATIC, *(f"{note} {kind}" for kind in ("major", "minor") for note in NOTES)],
    }
    changes: dict[str, Any] = {"elem_id": f"{form.kind}_flag_{action.dest}"}
    if choices := lists.get(action.dest):
        changes |= {"choices": choices, "allow_custom_value": True, "value": action.default or ""}
    if action.dest == "f0_out":
        return pickers.build_curve_wish(**changes)
    control = forms.control(action, **changes)
    if action.dest in STEMS:
        pickers.build_upload(control)
    if action.dest == "f0_in":
        pickers.build_curve_drop(control)
    return control


def build_buttons(form: Form) -> tuple["gradio.Button", "gradio.Button", "gradio.Button"]:
    """Convert or Cover, Stop and Resume, which stay in sight in a narrow window."""
    import gradio

    with gradio.Row(elem_id=f"{form.kind}_actions"):
        start = gradio.Button(form.kind.capitalize(), variant="primary", elem_id=f"{form.kind}", min_width=100, scale=2)
        stop = gradio.Button("Stop", interactive=False, elem_id=f"{form.kind}_stop", min_width=80)
        resume = gradio.Button("Resume", interactive=False, elem_id=f"{form.kind}_resume", min_width=80)
    stop.click(partial(stop_conversion, form), None, stop, queue=False, **_PRIVATE)
    return start, stop, resume


def build_progress(form: Form, stop: "gradio.Button", resume: "gradio.Button", parsers: "Parsers") -> list["Component"]:
    """Where `watch` shows its states."""
    import gradio

    status = gradio.HTML(elem_id=f"{form.kind}_status")
    warnings = gradio.HTML(elem_id=f"{form.kind}_warnings")
    with gradio.Accordion("Log", open=False):
        log = gradio.Textbox(show_label=False, lines=10, max_lines=10, elem_classes="log", elem_id=f"{form.kind}_log")
    return [status, warnings, log, build_results(form, parsers["compare.py"]), stop, resume]


def connect_lists(page: "gradio.Blocks", chosen: Pickers, controls: Controls, refresh: "gradio.Button") -> None:
    """Lists show what is there, and choosing in one sets what belongs to it, in sight."""
    import gradio

    config = controls["config_path"]
    files = [controls[name] for name in ("diffusion_model_path", "cluster_model_path", "f0_in")]
    stems = [controls[name] for name in STEMS if name in controls]

    @refusals_shown
    def refresh_voices(model: str | None) -> tuple["Component", ...]:
        found = [workspace.diffusion_models(), workspace.retrievals(), workspace.curves()]
        found += [workspace.songs() for _ in stems]
        lists = [gradio.Dropdown(choices=["", *(path.as_posix() for path in paths)]) for paths in found]
        return pickers.refresh_voices(model), *lists

    for listen in (page.load, refresh.click):
        listen(refresh_voices, chosen.model, [chosen.model, *files, *stems], queue=False, **_PRIVATE)
    page.load(pickers.refresh_songs, chosen.songs, chosen.songs, queue=False, **_PRIVATE)
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


def connect_sample(page: "gradio.Blocks", button: "gradio.Button", chosen: Pickers, controls: Controls) -> None:
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
    page.load(lambda: gradio.Button(interactive=True), None, button, queue=False, **_PRIVATE)
    button.click(choose_sample, None, [*lists, *(controls[name] for name in RECOMMENDED)], **_PRIVATE)


def connect_jobs(
    page: "gradio.Blocks",
    form: Form,
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
        yield from watch_others(form)
        yield from watch(conversion.start(form, parser, values))

    @refusals_shown
    def resume_newest() -> Iterator[tuple[Any, ...]]:
        yield from watch_others(form)
        job = conversion.newest(form)
        if job is None or job.status not in ENDED_EARLY:
            raise UsageError("no conversion has stopped before its end")
        yield from watch(conversion.start(form, parser, job.about["values"], resume=True))

    @refusals_shown
    def show_newest() -> Iterator[tuple[Any, ...]]:
        job = conversion.newest(form)
        yield from [[gradio.skip()] * len(progress)] if job is None else watch(job)

    for button in (start, progress[-1]):  # before the others: gradio does a click's one by one
        button.click(None, js=_SHOW_STATUS % form.kind, **_PRIVATE)
    shown = {"outputs": progress, "show_progress": "hidden", **_PRIVATE}
    start.click(convert_chosen, inputs, **shown, **form.one_at_a_time)
    progress[-1].click(resume_newest, **shown, **form.one_at_a_time)
    page.load(show_newest, **shown, concurrency_limit=None)


def watch_others(form: Form) -> Iterator[tuple[Any, ...]]:
    """Shows the conversion that runs until it has ended, since one runs at a time."""
    while (other := jobs.running(form.kind)) is not None:
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
def stop_conversion(form: Form) -> "Component":
    """Stops what runs; the button then offers to kill it."""
    import gradio

    job = jobs.running(form.kind)
    if job is None:
        return gradio.Button("Stop", interactive=False)
    job.stop()
    return gradio.Button("Stop at once")
