"""A disk that refuses: each attempt of this process to write below a folder can be counted, and one of them made fail.

An audit hook sees all that Python opens for writing, renames and makes. What C++ opens (libsndfile, torch) passes
unseen; a limit on file sizes (`tests/test_write_failures.py`) reaches that.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Plan:
    """Which attempt fails."""

    folder: Path
    failing: int | None = None  # from 0; None counts only
    error: int = errno.ENOSPC
    attempts: list[str] = field(default_factory=list)  # "event path" of all so far


_plan: Plan | None = None


@contextlib.contextmanager
def watched(plan: Plan) -> Iterator[Plan]:
    """Attempts inside follow the plan."""
    global _plan
    _plan = plan
    try:
        yield plan
    finally:
        _plan = None


def _is_write(mode: str | None, flags: object) -> bool:
    by_flags = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    return any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool(by_flags)


def _hook(event: str, arguments: tuple) -> None:
    plan = _plan
    if plan is None or event not in ("open", "os.rename", "os.mkdir", "shutil.copyfile"):
        return
    if event == "open" and not _is_write(*arguments[1:3]):
        return
    target = arguments[1] if event in ("os.rename", "shutil.copyfile") else arguments[0]
    if not isinstance(target, (str, bytes, os.PathLike)):
        return
    path = Path(os.path.abspath(os.fsdecode(target)))  # noqa: PTH100 resolve() would be seen here again
    if not path.is_relative_to(plan.folder):
        return
    if event == "os.mkdir" and path.is_dir():
        return
    plan.attempts.append(f"{event} {path.relative_to(plan.folder).as_posix()}")
    if len(plan.attempts) - 1 == plan.failing:
        raise OSError(plan.error, os.strerror(plan.error), str(path))


sys.addaudithook(_hook)
