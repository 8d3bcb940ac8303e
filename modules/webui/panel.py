"""What the page says of a job, and how it says that something is wrong. All text of files and users is escaped."""

import contextlib
import functools
import html
import inspect
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from modules.errors import FAILURES, reason_of
from modules.text import printable
from modules.webui.jobs import Job

_WORDS = {
    "running": "running",
    "done": "done",
    "stopped": "stopped; what was made is kept, and Resume goes on with it",
    "interrupted": "interrupted: the machine or the program was ended; Resume goes on",
    "failed": "failed",
}
_POLL_SECONDS = 0.3
_MARKS = {"done": "✓", "open": "·", "running": "▶", "failed": "✗"}


def describe(job: Job | None) -> str:
    """The state of a job as HTML: each stage with its command line, the progress bar, and why it failed."""
    if job is None:
        return ""
    status, codes = job.status, job.codes
    parts = []
    for number, stage in enumerate(job.stages):
        state = _stage_state(number, status, codes, stage.goes_on)
        note = (
            " (some files were left out, see below)"
            if number < len(codes) and codes[number] == 1 == stage.goes_on
            else ""
        )
        line = f"<b>{_MARKS[state]} {html.escape(stage.name)}</b>{note}<br><code>{html.escape(str(stage))}</code>"
        parts.append(f'<li class="stage {state}">{line}</li>')
    text = _WORDS[status]
    if status == "failed":
        text = f"failed: {printable(job.last_error(), 1000)}"
    bar = job.bar() if status == "running" else None
    shown = f'<progress max="1" value="{bar.share:.3f}"></progress> {html.escape(str(bar))}' if bar else ""
    if status == "running" and not bar:
        shown = "<progress></progress>"
    return f'<div class="job {status}"><ul>{"".join(parts)}</ul><p class="status">{html.escape(text)}</p>{shown}</div>'


def _stage_state(number: int, status: str, codes: list[int], goes_on: bool) -> str:
    if number < len(codes):
        if codes[number] == 0 or (codes[number] == 1 and goes_on):
            return "done"
        return "open" if status == "stopped" else "failed"
    return "running" if number == len(codes) and status == "running" else "open"


def follow(job: Job) -> Iterator[str]:
    """Its state as HTML whenever that changes, until it has ended."""
    shown = ""
    while True:
        is_over = job.status != "running"  # asked first, so that the last state is told
        if (text := describe(job)) != shown:
            yield (shown := text)
        if is_over:
            return
        time.sleep(_POLL_SECONDS)


def framed(page: Path) -> str:
    """A report of ours in one file, inside of the page; its scripts do not run and it can reach nothing."""
    return f'<iframe class="report" sandbox srcdoc="{html.escape(page.read_text("utf-8"))}"></iframe>'


def refusals_shown(function: Callable) -> Callable:
    """A handler of the page whose errors that a user can mend appear as a message, in plain text."""
    return _refusing(function, html.escape)


def refusals_told(function: Callable) -> Callable:
    """An endpoint for other programs, which get the text of such errors as it is."""
    return _refusing(function, str)


def _refusing(function: Callable, written: Callable[[str], str]) -> Callable:
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def refusing(*args: Any) -> Any:
            with _refusals(written):
                yield from function(*args)

    else:

        @functools.wraps(function)
        def refusing(*args: Any) -> Any:
            with _refusals(written):
                return function(*args)

    return refusing


@contextlib.contextmanager
def _refusals(written: Callable[[str], str]) -> Iterator[None]:
    import gradio

    try:
        yield
    except FAILURES as error:
        raise gradio.Error(written(reason_of(error)), print_exception=False, duration=None) from None


def warn(text: str) -> None:
    """Shows a message on the page."""
    import gradio

    gradio.Warning(html.escape(text), duration=None)
