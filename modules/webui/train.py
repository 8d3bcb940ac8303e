"""The tab Train: recordings in, a voice out; what runs goes on without the page, which finds it again."""

import contextlib
import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.errors import FAILURES, UsageError
from modules.webui import curves, panel, stages, workspace
from modules.webui.jobs import Job
from modules.webui.preview import build_preview
from modules.webui.stages import DOCTOR_PAGE
from modules.webui.train_form import TrainForm, build_form

if TYPE_CHECKING:
    import gradio
    from gradio.components import Component

    from modules.webui.page import Parsers

REFRESH_SECONDS = 2.0
LOG_LINES = 20  # of an answer to `train_state`
_PAGE_BYTES = 30_000_000  # of a doctor's page that is shown
# At once, however many wait in the queue. Gradio shows no error and no message of such a handler.
_QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


def build_train(page: "gradio.Blocks", parsers: "Parsers") -> None:
    """Puts the tab into the page that is being built."""
    import gradio

    with gradio.Row():
        with gradio.Column(min_width=320):
            form = build_form(parsers)
        with gradio.Column(min_width=320):
            gradio.Markdown("### 3. Training")
            view = _build_view(page, form)
            gradio.Markdown("### 4. Listen to it")
            build_preview(page, parsers, form.controls["training", "model"])
    _wire(page, form, view)
    _add_endpoints(parsers)


def _build_view(page: "gradio.Blocks", form: TrainForm) -> dict[str, "Component"]:
    """What shows the training: its buttons, state, log, curves and the doctor's page."""
    import gradio

    view: dict[str, Any] = {}
    with gradio.Row():
        view["start"] = gradio.Button("Start", variant="primary", min_width=90, elem_id="train_start")
        view["stop"] = gradio.Button("Stop", variant="stop", min_width=90, interactive=False, elem_id="train_stop")
        view["resume"] = gradio.Button("Resume", min_width=90, interactive=False, elem_id="train_resume")
    view["state"] = gradio.HTML(elem_id="train_state")
    with gradio.Column(visible=False) as view["details"]:
        with gradio.Accordion("Log"):
            view["log"] = gradio.HTML(elem_id="train_log")
        with gradio.Accordion("What the doctor found", open=False, visible=False) as view["doctor_box"]:
            view["doctor"] = gradio.HTML(elem_id="train_report")
        with gradio.Accordion("Curves", elem_id="train_curves"):
            names = list(curves.LOSSES)
            view["losses"] = gradio.Dropdown(names, value=names[:2], multiselect=True, label="losses")
            view["loss_plot"] = gradio.HTML(elem_id="train_losses")
            names = list(curves.SCORES)
            view["score"] = gradio.Dropdown(names, value=names[0], label="score", elem_id="train_score")
            view["score_plot"] = gradio.HTML(elem_id="train_scores")
    view["seen"] = gradio.State([])  # signatures of the files that the page shows
    view["timer"] = gradio.Timer(REFRESH_SECONDS, active=False)
    return view


SHOWN = (
    "state",
    "details",
    "log",
    "loss_plot",
    "score_plot",
    "doctor_box",
    "doctor",
    "timer",
    "stop",
    "resume",
    "seen",
)


def _wire(page: "gradio.Blocks", form: TrainForm, view: dict[str, "Component"]) -> None:
    """Says what each button does."""
    inputs, outputs = [view[name] for name in ("seen", "losses", "score")], [view[name] for name in SHOWN]

    def start(seen: list, losses: list[str], score: str, *values: Any) -> tuple[Any, ...]:
        stages.start(form.parsers, *form.read(*values))
        return show(seen, losses, score)

    def stop(*values: Any) -> tuple[Any, ...]:
        with contextlib.suppress(UsageError):  # it has ended by itself
            stages.stop()
        return show(*values)

    def resume(*values: Any) -> tuple[Any, ...]:
        stages.resume()
        return show(*values)

    shown = panel.refusals_shown
    queued = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}
    view["start"].click(shown(start), inputs + form.inputs, outputs, **queued)
    view["resume"].click(shown(resume), inputs, outputs, **queued)
    view["stop"].click(shown(stop), inputs, outputs, **_QUIET)
    for event in (view["timer"].tick, view["losses"].change, view["score"].change):
        event(show, inputs, outputs, **_QUIET)
    page.load(lambda losses, score: show([], losses, score), inputs[1:], outputs, **_QUIET)
    restored = page.load(lambda: form.restored(stages.newest()), None, form.inputs, **_QUIET)
    restored.then(form.show_plan, form.inputs, form.plan, **_QUIET)


def show(seen: list, losses: list[str], score: str) -> tuple[Any, ...]:
    """Updates of `SHOWN` for the newest training; what is shown already is left as it is."""
    import gradio

    job = stages.newest()
    if job is None:
        folder, status = Path(), ""
    else:
        folder, status = workspace.LOGS / job.about["run"], job.status
    at_curves = [curves.signature(folder), losses, score] if job else None
    at_doctor = _doctor_signature(job)
    before = [*seen, None, None]
    plots = [gradio.skip(), gradio.skip()]
    if at_curves != before[0]:
        plots = [
            curves.draw("losses", curves.chosen(curves.read_losses(folder), losses)),
            curves.draw("scores of evaluations", curves.chosen(curves.read_scores(folder), [score])),
        ]
    return (
        _describe(job),
        gradio.Column(visible=job is not None),
        f'<div class="tail"><pre>{html.escape(job.log() if job else "")}</pre></div>',
        *plots,
        gradio.skip() if at_doctor == before[1] else _doctor_box(at_doctor),
        gradio.skip() if at_doctor == before[1] else _doctor_page(at_doctor),
        gradio.Timer(active=status == "running"),
        gradio.update(interactive=status == "running"),
        gradio.update(interactive=status in ("stopped", "interrupted", "failed")),
        [at_curves, at_doctor],
    )


def _describe(job: Job | None) -> str:
    if job is None:
        return '<p class="empty">Nothing was trained yet. Add recordings, then press Start.</p>'
    text = panel.describe(job)
    if job.status == "running" and job.is_stopping:
        text += '<p class="hint">It saves, then it ends. Press Stop again to kill it.</p>'
    if stages.is_refused_by_doctor(job):
        remedy = "The doctor found what would spoil the training; it says so below. Mend that, or untick the doctor, "
        text += f'<p class="hint">{html.escape(remedy)}and press Start.</p>'
    return text


def _doctor_signature(job: Job | None) -> list[int] | None:
    """Time and size of the doctor's page, and whether it says why nothing was trained; None where there is none."""
    if job is None or not any(stage.command[0] == "doctor.py" for stage in job.stages):
        return None
    try:
        found = workspace.inside(DOCTOR_PAGE).stat()
    except FAILURES:
        return None
    return [found.st_mtime_ns, found.st_size, stages.is_refused_by_doctor(job)]


def _doctor_box(signature: list[int] | None) -> Any:
    """The box of the doctor's page: there when that is, and open when it says why nothing was trained."""
    import gradio

    return gradio.update(visible=signature is not None, open=signature is not None and bool(signature[2]))


def _doctor_page(signature: list[int] | None) -> str:
    if signature is None:
        return ""
    if signature[1] > _PAGE_BYTES:
        return f"<p>{DOCTOR_PAGE} is too large to be shown here: open it in a browser.</p>"
    try:
        return panel.framed(workspace.inside(DOCTOR_PAGE))
    except (*FAILURES, UnicodeDecodeError):
        return ""


def _add_endpoints(parsers: "Parsers") -> None:
    """What other programs may call."""
    import gradio

    def train_start(stages_to_run: list[str], settings: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Starts a training: the stages that run, and {stage: {name of a flag: value}}; returns its state."""
        return _state_of(stages.start(parsers, stages_to_run, settings))

    def train_stop() -> dict[str, Any]:
        """Stops the training, which saves; called again, it is killed. Returns its state."""
        return _state_of(stages.stop())

    def train_resume() -> dict[str, Any]:
        """Goes on with the newest training where it was stopped or interrupted; returns its state."""
        return _state_of(stages.resume())

    def train_state() -> dict[str, Any]:
        """The state of the newest training: status, exit codes, progress, last lines of the log."""
        return _state_of(stages.newest())

    for function in (train_start, train_stop, train_resume, train_state):
        gradio.api(panel.refusals_told(function), api_name=function.__name__, queue=False)


def _state_of(job: Job | None) -> dict[str, Any]:
    if job is None:
        return {"status": "none"}
    status, bar = job.status, job.bar()
    return {
        "name": job.name,
        "status": status,
        "run": job.about["run"],
        "stages": [stage.name for stage in job.stages],
        "commands": [str(stage) for stage in job.stages],
        "codes": job.codes,
        "bar": str(bar) if bar and status == "running" else None,
        "log": job.log().splitlines()[-LOG_LINES:],
    }
