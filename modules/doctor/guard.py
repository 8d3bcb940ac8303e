"""What every check of doctor.py shares: one that fails costs only itself, and what a loader logs becomes a finding."""

import contextlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator

from modules.doctor.findings import Finding
from modules.errors import reason_of
from modules.text import printable

_REMEDY = re.compile(r"(?<=[^.])[.;] (?=[A-Z]|make |delete )")  # "what is wrong. What to do": our errors are written so


def guarded(section: str, subject: str, check: Callable[..., Iterable[Finding]], *arguments: object) -> list[Finding]:
    """What a check finds. Where it fails itself, what it has found by then and a warning that says why: damage that
    nobody thought of must not hide all other findings."""
    found: list[Finding] = []
    try:
        found.extend(check(*arguments))
    except Exception as error:
        text = f"could not be checked ({printable(reason_of(error), 300)})"
        found.append(Finding(section, "warning", "unchecked", subject, text))
    return found


def from_text(section: str, level: str, kind: str, subject: str, text: object, **more: object) -> Finding:
    """A finding from an error or a line of the log, "SUBJECT: what is wrong. What to do"."""
    said = " ".join(str(text).split()).removeprefix(f"{subject}: ")
    what, *remedy = _REMEDY.split(said, maxsplit=1)
    shown = printable(what.rstrip("."), 500)
    return Finding(section, level, kind, printable(subject), shown, printable("".join(remedy), 500), **more)


@contextlib.contextmanager
def listening() -> Iterator[list[str]]:
    """Collects the warnings that our modules log inside, which then reach no other log."""
    heard: list[str] = []

    class _Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    parent, ear = logging.getLogger("modules"), _Ear(logging.WARNING)
    before = parent.propagate
    parent.addHandler(ear)
    parent.propagate = False
    try:
        yield heard
    finally:
        parent.removeHandler(ear)
        parent.propagate = before
