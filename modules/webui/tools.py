"""The tab Tools: mix, compress and inspect models, compare two sounds, evaluate a voice, choose by ear."""

import html
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.errors import UserError
from modules.registry import declared_names
from modules.webui import forms, jobs, panel, tool_jobs, workspace
from modules.webui.tool_endpoints import add_endpoints
from modules.webui.tool_jobs import KIND, TOOLS, Tool

if TYPE_CHECKING:
    import gradio

    from modules.webui.page import Parsers

RESULTS = Path("results")
Controls = dict[str, "gradio.components.Component"]  # by the names of flags


def build_tools(page: "gradio.Blocks", parsers: "Parsers") -> None:
    """Puts the tab into the page that is being built."""
    import gradio

    with gradio.Row():
        with gradio.Column(scale=3, min_width=320), gradio.Tabs(elem_id="tools"):
            mix = _build(TOOLS["mix"], parsers, ("input", "weights", "mode", "output", "overwrite"), _mix_changes())
            first = ("input", "half", "int8", "output", "overwrite")
            compress = _build(TOOLS["compress"], parsers, first, {"input": {"label": "model (-i)"}})
            paths = {"multiselect": True, "label": "models"}
            inspect = _build(TOOLS["inspect"], parsers, ("paths", "json"), {"paths": paths})
            compare = _build_compare(parsers)
            first = ("model_path", "spk_list", "input", "trans", "range", "card", "output", "overwrite")
            evaluate = _build(TOOLS["evaluate"], parsers, first, _evaluate_changes())
            first = ("model_path", "spk_list", "clean_names", "trans", "f0_predictor", "start", "seconds", "name")
            grid = _build(TOOLS["grid"], parsers, first, _grid_changes(parsers))
        with gradio.Column(scale=4, min_width=320):
            shown = _build_results()
    forms_of = {"mix": mix, "compress": compress, "inspect": inspect, "compare": compare, "evaluate": evaluate}
    forms_of["grid"] = grid
    models = [mix["input"], compress["input"], inspect["paths"], evaluate["model_path"], grid["model_path"]]
    sounds = [compare["source"], compare["result"], evaluate["input"], grid["clean_names"]]
    private = {"api_visibility": "private", "show_progress": "hidden"}

    mix["input"].change(tool_jobs.weights_text, mix["input"], mix["weights"], queue=False, **private)
    model = evaluate["model_path"]
    chosen = [model, evaluate["spk_list"]]
    gradio.on([model.change, page.load], _speakers, chosen, chosen[1], queue=False, **private)
    chosen = [grid["model_path"], grid["spk_list"]]
    chosen[0].change(_speakers, chosen, chosen[1], queue=False, **private)
    lists = [*models, *sounds]
    page.load(_refresh, None, lists, queue=False, **private)
    for name, controls in forms_of.items():
        button = controls.pop("")
        event = button.click(
            _runner(TOOLS[name], parsers, list(controls)),
            list(controls.values()),
            shown,
            concurrency_limit=1,
            concurrency_id=KIND,
            **private,
        )
        event.then(_refresh, None, lists, queue=False, **private)
    page.load(_follow_newest, None, shown, concurrency_limit=None, **private)
    add_endpoints(parsers)


def _build(tool: Tool, parsers: "Parsers", first: tuple[str, ...], changes: dict[str, dict] | None = None) -> Controls:
    """The form of one tool in a tab of its own; the button that starts it has the name ""."""
    import gradio

    with gradio.Tab(tool.name.capitalize()):
        _describe(tool, parsers)
        return _fill(tool, parsers, first, changes or {})


def _describe(tool: Tool, parsers: "Parsers") -> None:
    """What --help says of a script: its first paragraph, and the others on a click."""
    import gradio

    what, _, rest = map(html.escape, (parsers[tool.script].description or "").partition("\n\n"))
    gradio.HTML(f'<details class="about"><summary>{what}</summary><pre>{rest}</pre></details>')


def _fill(tool: Tool, parsers: "Parsers", first: tuple[str, ...], changes: dict[str, dict]) -> Controls:
    """The controls of all flags, those that are not among the first under "More options"; and the button."""
    import gradio

    known = {name: one for name, one in forms.actions(parsers[tool.script]).items() if name not in tool.hidden}
    found = {name: _control(tool, known[name], changes.get(name, {})) for name in first}
    if others := [name for name in known if name not in found]:
        with gradio.Accordion("More options", open=False):
            found |= {name: _control(tool, known[name], changes.get(name, {})) for name in others}
    return {**found, "": gradio.Button(tool.name.capitalize(), variant="primary", elem_id=f"{tool.name}-run")}


def _control(tool: Tool, action: Any, changes: dict[str, Any]) -> "gradio.components.Component":
    """A flag's control; files that can be listed and predictors are chosen, and others may be typed."""
    if action.dest in ("input", "paths", "model_path"):
        changes = {"choices": [], "value": None, "allow_custom_value": True, **changes}
    if action.dest.endswith("f0_predictor"):
        changes = {"choices": declared_names("modules.f0") or [action.default], "allow_custom_value": True, **changes}
    return forms.control(action, elem_id=f"{tool.name}-{action.dest}", **changes)


def _mix_changes() -> dict[str, dict]:
    info = "path and percent of each model; change the numbers"
    return {
        "input": {"multiselect": True, "label": "models (-i)"},
        "weights": {"label": "weights, as JSON (-w)", "info": info, "lines": 4, "value": "{}"},
    }


def _evaluate_changes() -> dict[str, dict]:
    many = {"choices": [], "value": None, "multiselect": True, "allow_custom_value": True}
    songs = {
        "label": "songs (-i)",
        "info": "recordings of a voice alone: files or folders; none are needed for the range",
    }
    voice = {"label": "model (-m)", "info": "trained generator"}
    return {"model_path": voice, "spk_list": {**many, "label": "speakers (-s)"}, "input": {**many, **songs}}


def _grid_changes(parsers: "Parsers") -> dict[str, dict]:
    """Lists of several values where the values are known."""
    many = {"multiselect": True, "allow_custom_value": True}
    changes = {
        "model_path": {**many, "label": "models (-m)", "info": "trained generators: those to compare"},
        "spk_list": {**many, "choices": [], "value": None, "label": "speakers (-s)"},
        "clean_names": {**many, "choices": [], "value": None, "label": "songs (-n)", "info": "a voice alone"},
        "f0_predictor": {**many, "value": ["pm"]},
    }
    for name, action in forms.actions(parsers["grid.py"]).items():
        if action.choices is not None and action.nargs in ("+", "*"):
            changes[name] = {"multiselect": True, "value": action.default or []}
    return changes


def _build_compare(parsers: "Parsers") -> Controls:
    """The form of compare.py, and a place to drop sounds on."""
    import gradio

    one = {"choices": [], "value": None, "allow_custom_value": True}
    with gradio.Tab("Compare"):
        _describe(TOOLS["compare"], parsers)
        upload = gradio.UploadButton("Upload sounds", file_count="multiple", size="sm", elem_id="compare-upload")
        output = {"info": f"picture to write (default: one in {tool_jobs.PICTURES.as_posix()}/)"}
        changes = {"source": one, "result": one, "output": output}
        found = _fill(TOOLS["compare"], parsers, ("source", "result"), changes)
    chosen = [found["source"], found["result"]]
    upload.upload(_keep, [upload, *chosen], chosen, api_visibility="private", show_progress="hidden")
    return found


def _build_results() -> list["gradio.components.Component"]:
    """What the tools show: state, text, picture, report, and the report as a file."""
    import gradio

    state = gradio.HTML("", elem_id="tools-state")
    stop = gradio.Button("Stop", visible=False, size="sm", elem_id="tools-stop")
    text = gradio.Textbox(
        label="Result", lines=6, max_lines=24, interactive=False, elem_id="tools-text", elem_classes="said"
    )
    picture = gradio.Image(label="Picture", visible=False, elem_id="tools-picture")
    report = gradio.HTML(visible=False, elem_id="tools-report")
    file = gradio.DownloadButton("Download the page", visible=False, elem_id="tools-download")
    stop.click(_stop, None, None, queue=False, api_visibility="private")
    return [state, stop, text, picture, report, file]


def _runner(tool: Tool, parsers: "Parsers", names: list[str]) -> Callable[..., Iterator[tuple]]:
    """The handler of a tool's button."""

    @panel.refusals_shown
    def run(*values: Any) -> Iterator[tuple]:
        while (other := jobs.running(KIND)) is not None:
            yield from _follow(other)
        yield from _follow(tool_jobs.start(tool, parsers, dict(zip(names, values))))

    return run


@panel.refusals_shown
def _follow_newest() -> Iterator[tuple]:
    if found := jobs.find(KIND):
        yield from _follow(found[0])


def _follow(job: jobs.Job) -> Iterator[tuple]:
    """What the page shows of a job, until it has ended."""
    import gradio

    hidden = gradio.update(visible=False)
    for state in panel.follow(job):
        is_running = job.status == "running"
        yield state, gradio.Button("Stop", visible=is_running), tool_jobs.result_of(job), hidden, hidden, hidden
    picture, report, page = (_made(job, name) for name in ("picture", "report", "page"))
    yield (
        panel.describe(job),
        hidden,
        tool_jobs.result_of(job),
        gradio.update(value=picture, visible=True) if picture else hidden,
        gradio.update(value=panel.framed(report), visible=True) if report else hidden,
        gradio.update(value=report or page, visible=True) if report or page else hidden,
    )


def _made(job: jobs.Job, name: str) -> Path | None:
    path = Path(job.about.get(name) or "")
    return path if job.status == "done" and path.is_file() else None


@panel.refusals_shown
def _stop() -> None:
    if (job := jobs.running(KIND)) is not None:
        job.stop()


@panel.refusals_shown
def _keep(uploads: list[str], source: str | None, result: str | None) -> tuple:
    """Puts uploads into raw/, and the first ones into what is not chosen yet."""
    import gradio

    kept, problems = workspace.keep_sounds(uploads, workspace.SONGS)
    if problems:
        panel.warn("\n".join(problems))
    names, choices = [path.as_posix() for path in kept], _sounds()
    chosen = [given or (names.pop(0) if names else None) for given in (source, result)]
    return tuple(gradio.update(choices=choices, value=value) for value in chosen)


@panel.refusals_shown
def _refresh() -> list:
    """The lists of models and sounds; what is chosen stays."""
    import gradio

    models = [path.as_posix() for path in workspace.models() if path.suffix != ".onnx"]
    sounds = _sounds()
    folders = sorted({str(Path(path).parent.as_posix()) for path in sounds})
    lists = [*[models] * 5, sounds, sounds, [*folders, *sounds], sounds]
    return [gradio.update(choices=choices) for choices in lists]


def _sounds() -> list[str]:
    """Songs and results that can be compared."""
    return [path.as_posix() for path in [*workspace.songs(), *workspace.sounds_below(RESULTS)]]


@panel.refusals_shown
def _speakers(model: list[str] | str | None, chosen: list[str] | None) -> Any:
    """The speakers of a voice, of several the first, as choices; those that are chosen stay."""
    import gradio

    model = next(iter(model), None) if isinstance(model, list) else model
    try:
        path = workspace.inside(model or "")
        names = workspace.speakers_of(workspace.inside(workspace.config_of(path)))
    except UserError:  # nothing is chosen yet, or its config is named under More options
        names = []
    return gradio.update(choices=names, value=[name for name in chosen or [] if name in names])
