"""What the tabs Convert and Cover choose from: voices with their speakers, and songs; and how more of both come in."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.errors import UsageError
from modules.f0.histogram import note_name
from modules.f0.voice_range import VoiceRange, ranges_on
from modules.webui import forms, jobs
from modules.webui.conversion import Form
from modules.webui.jobs import Stage
from modules.webui.panel import describe, follow, refusals_shown, warn
from modules.webui.workspace import (
    INCLUDED,
    MODEL_SUFFIXES,
    SONGS,
    config_of,
    curves,
    inside,
    keep_curve,
    keep_model,
    keep_sounds,
    models,
    songs,
    speakers_of,
)
from modules.weights.about import peek_card

if TYPE_CHECKING:
    from gradio import Button, Dropdown
    from gradio.components import Component

INSPECT = "inspect_model.py"
Choices = list[tuple[str, str]]  # what is shown, and the value


@dataclass(frozen=True)
class Pickers:
    """The lists of a tab."""

    model: "Dropdown"
    speakers: "Dropdown"
    songs: "Dropdown"


def voice_choices() -> Choices:
    """The voices there are, the newest first."""
    found = [(path.as_posix(), path.resolve().is_relative_to(INCLUDED)) for path in models()]
    return [(f"{INCLUDED.name} (included)" if is_ours else path, path) for path, is_ours in found]


def song_choices() -> Choices:
    """The songs in raw/."""
    return [(path.relative_to(SONGS).as_posix(), path.as_posix()) for path in songs()]


def build_voice(form: Form) -> tuple["Dropdown", "Dropdown", "Button"]:
    """The lists of voices and of the speakers of the chosen one, and the button that looks again."""
    import gradio

    with gradio.Row(equal_height=True, elem_classes="picker"):
        model = gradio.Dropdown(
            [],
            label="Voice",
            info="of logs/ and trained/",
            allow_custom_value=True,
            elem_id=f"{form.kind}_voice",
            scale=8,
            min_width=200,
        )
        refresh = gradio.Button(
            "↻", scale=0, min_width=48, elem_id=f"{form.kind}_refresh_voices", elem_classes="refresh"
        )
    speakers = gradio.Dropdown(
        [],
        multiselect=True,
        label="Speakers",
        info="every song is sung by each of them",
        allow_custom_value=True,
        elem_id=f"{form.kind}_speakers",
    )
    return model, speakers, refresh


def build_songs(form: Form) -> "Dropdown":
    """The list of songs, and the place to drop more."""
    import gradio

    files = gradio.File(
        file_count="multiple", label="Add songs (audio or video)", height=140, elem_id=f"{form.kind}_upload"
    )
    with gradio.Row(equal_height=True, elem_classes="picker"):
        chosen = gradio.Dropdown(
            [],
            multiselect=True,
            label="Songs",
            info=f"in raw/; {form.songs}",
            allow_custom_value=True,
            elem_id=f"{form.kind}_songs",
            scale=8,
            min_width=200,
        )
        refresh = gradio.Button(
            "↻", scale=0, min_width=48, elem_id=f"{form.kind}_refresh_songs", elem_classes="refresh"
        )
    refresh.click(refresh_songs, chosen, chosen, queue=False, api_visibility="private")
    files.upload(add_songs, [files, chosen], [files, chosen], api_visibility="private")
    return chosen


def build_upload(sound: "Dropdown") -> None:
    """A button that takes in one sound and chooses it in a list."""
    import gradio

    @refusals_shown
    def add(upload: str) -> "Component":
        kept, problems = keep_sounds([upload], SONGS)
        if problems:
            raise UsageError(problems[0])
        return gradio.Dropdown(choices=["", *song_choices()], value=kept[0].as_posix())

    button = gradio.UploadButton("Upload it", size="sm", elem_id=f"{sound.elem_id}_upload")
    button.upload(add, button, sound, api_visibility="private")


def build_curve_drop(curve: "Dropdown") -> None:
    """A place to drop an F0 curve, which chooses it in a list."""
    import gradio

    @refusals_shown
    def add(upload: str) -> tuple[None, "Component"]:
        kept = keep_curve(upload).as_posix()
        return None, gradio.Dropdown(choices=["", *(path.as_posix() for path in curves())], value=kept)

    file = gradio.File(
        label="F0 curve (.csv), mended in a spreadsheet or of another tool", height=90, elem_id=f"{curve.elem_id}_drop"
    )
    file.upload(add, file, [file, curve], api_visibility="private")


def build_curve_wish(**shown: Any) -> "Component":
    """The box to tick for a curve that can be downloaded, in place of a file's name."""
    import gradio

    info = "write the song's F0 curve, before it is transposed or tuned: it can be downloaded under the result"
    return gradio.Checkbox(label="F0 curve (--f0_out)", info=info, **shown)


def build_more_voices(model: "Dropdown", parser: argparse.ArgumentParser) -> None:
    """Adding a voice of others, and saying what a voice is."""
    import gradio

    with gradio.Accordion("Add a voice from files", open=False, elem_id="convert_add_voice"):
        files = gradio.File(
            file_count="multiple",
            label="model and config.json; also diffusion model and .yaml, cluster centres or index",
            height=140,
            elem_id="convert_voice_files",
        )
        name = gradio.Textbox(label="Name", info="they go to trained/NAME", elem_id="convert_voice_name")
        add = gradio.Button("Add", elem_id="convert_voice_add")
    with gradio.Accordion("What is this voice?", open=False, elem_id="convert_about_voice"):
        ask = gradio.Button("What is it?", elem_id="convert_inspect")
        state = gradio.HTML()
        text = gradio.Textbox(show_label=False, lines=8, max_lines=25, elem_classes="log", elem_id="convert_inspected")
    add.click(add_voice, [files, name], [files, model], api_visibility="private")

    @refusals_shown
    def say_what_it_is(path: str | None) -> Iterator[tuple[str, str]]:
        if not path:
            raise UsageError("no voice is chosen")
        stage = Stage("Inspect", forms.command(INSPECT, parser, {"paths": [inside(path).as_posix()]}))
        while (other := jobs.running("inspect")) is not None:
            other.wait(1)
        job = jobs.start("inspect", [stage])
        for shown in follow(job):
            yield shown, ""
        said = [line for line in job.log().splitlines() if not line.startswith("$ ")]
        yield (describe(job) if job.status == "failed" and not said else ""), "\n".join(said)

    ask.click(
        say_what_it_is,
        model,
        [state, text],
        show_progress="hidden",
        concurrency_limit=1,
        concurrency_id="inspect",
        api_visibility="private",
    )


def refresh_voices(current: str | None) -> "Component":
    """The list as it is now; what was chosen stays chosen while it is there."""
    import gradio

    choices = voice_choices()
    known = [value for _, value in choices]
    return gradio.Dropdown(choices=choices, value=current if current in known else known[0])


@refusals_shown
def refresh_songs(current: Sequence[str] | None) -> "Component":
    """The list as it is now, without songs that are gone."""
    import gradio

    choices = song_choices()
    known = [value for _, value in choices]
    return gradio.Dropdown(choices=choices, value=[song for song in current or [] if song in known])


@refusals_shown
def show_speakers(model: str | None, config: str | None, current: Sequence[str] | None) -> "Component":
    """The speakers of a voice; those that were chosen stay chosen where it has them, else its first is."""
    import gradio

    if not model:
        return gradio.Dropdown(choices=[], value=[])
    known, ranges = speakers_of(inside(config or config_of(inside(model)))), ranges_on(peek_card(inside(model)))
    choices = [(_with_range(name, ranges.get(name)), name) for name in known]
    return gradio.Dropdown(choices=choices, value=[name for name in current or [] if name in known] or known[:1])


def _with_range(name: str, known: VoiceRange | None) -> str:
    """A speaker's name, and the notes that it sings well where the model says so."""
    return name if known is None else f"{name} ({'-'.join(map(note_name, known.comfortable))})"


@refusals_shown
def add_songs(uploads: Sequence[str] | None, current: Sequence[str] | None) -> tuple[Any, Any]:
    """Keeps uploads in raw/ and chooses them too."""
    import gradio

    kept, problems = keep_sounds(uploads or [], SONGS)
    for problem in problems:
        warn(problem)
    value = list(dict.fromkeys([*(current or []), *(path.as_posix() for path in kept)]))
    return None, gradio.Dropdown(choices=song_choices(), value=value)


@refusals_shown
def add_voice(uploads: Sequence[str] | None, name: str | None) -> tuple[Any, Any]:
    """Keeps a voice in trained/NAME and chooses it."""
    import gradio

    if not uploads:
        raise UsageError("no file is chosen: give a model and its config.json")
    kept = keep_model(uploads, name or Path(uploads[0]).stem)
    voices = [path for path in kept if path.suffix.lower() in MODEL_SUFFIXES and path in models()]
    if not voices:
        warn(f"{kept[0].parent.as_posix()}: no voice is among these files ({', '.join(MODEL_SUFFIXES)})")
        return None, gradio.Dropdown(choices=voice_choices())
    return None, gradio.Dropdown(choices=voice_choices(), value=voices[0].as_posix())
