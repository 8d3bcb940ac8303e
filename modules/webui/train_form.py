"""The form of a training: recordings, the stages that run, their settings, and the command lines that this makes."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modules.errors import FAILURES, reason_of
from modules.registry import declared_names
from modules.text import counted, printable
from modules.webui import forms, panel, stages, workspace
from modules.webui.jobs import Job, Stage
from modules.webui.stages import PRESET, RECIPES

if TYPE_CHECKING:
    import gradio
    from gradio.components import Component

    from modules.webui.page import Parsers

_NAMES = {"speech_encoder": "modules.encoders", "f0_predictor": "modules.f0"}  # flag -> package that declares them
# Settings that are shown at first, in rows; the others are one click away.
_MAIN = (
    (("training", "model"), ("training", "max_steps")),
    (("lists", PRESET), ("lists", "speech_encoder")),
    (("features", "f0_predictor"), ("training", "base")),
    (("lists", "vol_aug"),),
)
_SHOWN_PROBLEMS = 5  # of an upload


@dataclass(frozen=True)
class TrainForm:
    """What a training is started with."""

    parsers: "Parsers"
    chosen: "gradio.CheckboxGroup"
    controls: dict[tuple[str, str], "Component"]  # stage, name of the setting -> control
    plan: "gradio.HTML"  # the command lines

    @property
    def inputs(self) -> list["Component"]:
        """All controls, in the order of `read`."""
        return [self.chosen, *self.controls.values()]

    def read(self, chosen: list[str], *values: Any) -> tuple[list[str], dict[str, dict[str, Any]]]:
        """The chosen stages, and their settings."""
        found: dict[str, dict[str, Any]] = {}
        for (stage, name), value in zip(self.controls, values):
            if value not in (None, ""):
                found.setdefault(stage, {})[name] = value
        return list(chosen), found

    def write(self, chosen: Sequence[str], settings: stages.Settings) -> list[Any]:
        """Updates of `inputs` that show other values, and defaults where there are none."""
        import gradio

        updates = [gradio.update(value=[stage for stage in chosen if stage in RECIPES])]
        for (stage, name), control in self.controls.items():
            found = {"base": _base_choices, "preview": _song_choices}.get(name)
            choices = {} if found is None else {"choices": found()}
            value = settings.get(stage, {}).get(name, control.value)
            updates.append(gradio.update(value=value, **choices))
        return updates

    def restored(self, job: Job | None) -> list[Any]:
        """Updates of `inputs` that show what a job was started with."""
        about = job.about if job else {}
        usual = [stage for stage, recipe in RECIPES.items() if recipe.is_usual]
        return self.write(about.get("chosen", usual), about.get("settings", {}))

    def show_plan(self, *values: Any) -> str:
        """The command lines as HTML, or why there are none."""
        try:
            return _describe(stages.plan(self.parsers, *self.read(*values)))
        except FAILURES as error:
            return f'<p class="job failed">{html.escape(reason_of(error))}</p>'


def build_form(parsers: "Parsers") -> TrainForm:
    """Puts the form into the page that is being built."""
    import gradio

    controls: dict[tuple[str, str], Component] = {}
    gradio.Markdown("### 1. Recordings")
    _build_recordings(parsers, controls)
    gradio.Markdown("### 2. Settings")
    small = gradio.Button("Small voice on a CPU", elem_id="train_small")
    usual = [stage for stage, recipe in RECIPES.items() if recipe.is_usual]
    titles = [(recipe.title, stage) for stage, recipe in RECIPES.items()]
    for row in _MAIN:
        with gradio.Row():
            for stage, name in row:
                controls[stage, name] = build_control(stage, name, parsers, min_width=240)
    chosen = gradio.CheckboxGroup(titles, value=usual, label="stages that run", elem_id="train_stages")
    with gradio.Accordion("More settings", open=False, elem_id="train_more"):
        for stage, recipe in RECIPES.items():
            names = [name for name in stages.settings_of(stage, parsers) if (stage, name) not in controls]
            with gradio.Accordion(recipe.title, open=False, elem_id=f"train_{stage}"):
                for name in names:
                    controls[stage, name] = build_control(stage, name, parsers)
    with gradio.Accordion("Command lines", open=False, elem_id="train_commands"):
        shown = gradio.HTML(elem_id="train_plan")
    form = TrainForm(parsers, chosen, controls, shown)
    hidden = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    changes = [control.input for control in form.inputs]
    gradio.on(changes, form.show_plan, form.inputs, shown, trigger_mode="always_last", **hidden)

    def fill(*values: Any) -> list[Any]:
        chosen_now, settings = form.read(*values)
        for stage, wanted in stages.SMALL_ON_CPU.items():
            settings[stage] = {**settings.get(stage, {}), **wanted}
        settings["training"]["base"] = workspace.inside(workspace.INCLUDED).as_posix()
        return form.write(chosen_now, settings)

    filled = small.click(panel.refusals_shown(fill), form.inputs, form.inputs, **hidden | {"queue": True})
    filled.then(form.show_plan, form.inputs, shown, **hidden)
    return form


def build_control(stage: str, name: str, parsers: "Parsers", **changes: Any) -> "Component":
    """The control of a setting; `changes` as of `forms.control`."""
    import gradio

    known = forms.actions(parsers[RECIPES[stage].script])
    changes["elem_id"] = f"train_{stage}_{name}"
    if name == PRESET:
        presets = RECIPES[stage].hidden
        info = "; ".join(f"{preset}: {known[preset].help}" for preset in presets)
        choices = [("default", ""), *((preset, preset) for preset in presets)]
        return gradio.Dropdown(choices, value="", label="size", info=info, **changes)
    choices = declared_names(_NAMES[name]) if name in _NAMES else known[name].choices
    if name == "base":
        changes |= {"choices": _base_choices(), "value": "", "allow_custom_value": True}
    elif name == "preview":
        changes |= {"choices": _song_choices(), "value": [], "multiselect": True, "allow_custom_value": True}
    elif choices and known[name].default is None:
        changes |= {"choices": [("default", ""), *((choice, choice) for choice in choices)], "value": ""}
    elif name in _NAMES:
        changes["choices"] = choices
    elif name == "model":
        changes["value"] = stages.DEFAULT_RUN
    return forms.control(known[name], **changes)


def _base_choices() -> list[tuple[str, str]]:
    included = workspace.inside(workspace.INCLUDED, must_exist=False)
    names = {path.as_posix(): "base-small, the included one" if path == included else "" for path in workspace.bases()}
    return [("none", ""), *((name or path, path) for path, name in names.items())]


def _song_choices() -> list[str]:
    return [path.as_posix() for path in workspace.songs()]


def _build_recordings(parsers: "Parsers", controls: dict[tuple[str, str], "Component"]) -> None:
    """Uploads, the samples, and a list of what there is."""
    import gradio

    speaker = gradio.Textbox(label="speaker", info="name of the voice", elem_id="train_speaker")
    label = "recordings of it: sound or film, of any length"
    files = gradio.File(file_count="multiple", label=label, height=140, elem_id="train_files")
    with gradio.Row():
        add = gradio.Button("Add", variant="primary", min_width=200, elem_id="train_add")
        samples = gradio.Button("Use the sample voices", min_width=200, elem_id="train_samples")
    table = gradio.HTML(show_speakers, elem_id="train_speakers")
    with gradio.Accordion("Another folder of the workspace", open=False, elem_id="train_folder"):
        folder = controls["clips", "in_dir"] = build_control("clips", "in_dir", parsers)
    private = {"api_visibility": "private"}
    shown = [files, table, folder]
    add.click(panel.refusals_shown(add_recordings), [speaker, files], shown, **private)
    samples.click(panel.refusals_shown(add_samples), None, shown, **private)
    folder.change(show_speakers, folder, table, queue=False, show_progress="hidden", **private)


def add_recordings(speaker: str, uploads: Sequence[str] | None) -> tuple[None, str, str]:
    """Keeps uploads as recordings of a speaker; what is no sound is named."""
    import gradio

    folder = workspace.RECORDINGS / workspace.safe_name(speaker or "")
    kept, problems = workspace.keep_sounds(uploads or [], folder)
    for text in problems[:_SHOWN_PROBLEMS]:
        panel.warn(text)
    if more := problems[_SHOWN_PROBLEMS:]:
        panel.warn(f"and {len(more)} more were refused")
    if kept:
        gradio.Info(html.escape(f"{counted(len(kept), 'recording')} of {folder.name} added"))
    elif not problems:
        panel.warn("choose files first")
    return None, show_speakers(), workspace.RECORDINGS.as_posix()


def add_samples() -> tuple[None, str, str]:
    """Puts the included recordings into the workspace."""
    workspace.copy_samples()
    return None, show_speakers(), workspace.RECORDINGS.as_posix()


def show_speakers(folder: str = workspace.RECORDINGS.as_posix()) -> str:
    """The speakers of a folder and how many recordings each has, as HTML, or why it cannot be used."""
    try:
        found = workspace.speakers_in(workspace.inside(folder, must_exist=False))
    except FAILURES as error:
        return f'<p class="job failed">{html.escape(reason_of(error))}</p>'
    if not found:
        return f'<p class="empty">{html.escape(printable(folder))} holds no recordings yet.</p>'
    rows = "".join(f"<tr><td>{html.escape(printable(name))}</td><td>{count}</td></tr>" for name, count in found.items())
    return f'<table class="speakers"><tr><th>speaker</th><th>recordings</th></tr>{rows}</table>'


def _describe(planned: Sequence[Stage]) -> str:
    lines = (f"<b>{html.escape(stage.name)}</b><code>{html.escape(str(stage))}</code>" for stage in planned)
    return f'<div class="job"><ul>{"".join(f"<li>{line}</li>" for line in lines)}</ul></div>'
