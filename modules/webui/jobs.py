"""Jobs: command lines of our scripts that run in processes of their own, whatever becomes of the page and its server.

    .webui/jobs/<date>-<time>-<kind>/
        job.json     kind, and for each stage its name and command line
        state.json   what the runner (`modules/webui/runner.py`) has done of it
        log.txt      all that the commands said, progress bars included
        stop         that somebody asked it to stop

One job of a kind runs at a time in a workspace. The runner holds the system's lock of its folder, so a server that was
started later finds it at work, or finds that it died.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from modules.errors import UsageError
from modules.files import lock_folder, make_folder, write_json
from modules.pretrained.find import CODE_ROOT
from modules.text import printable, quote

PRIVATE = Path(".webui")  # of the page, in the workspace
JOBS = PRIVATE / "jobs"
KEPT = 20  # finished jobs of a kind
START_SECONDS = 30  # what a runner has until it says that it runs
_TAIL = 200_000  # bytes of the log that are looked at
_BAR = re.compile(
    r"(?:(?P<what>[^\r\n|]*?): +)?(?P<percent>\d+)%\|[^|\r\n]*\| *(?P<done>\S+?)/(?P<total>\S+) "
    r"\[(?P<elapsed>[\d:]+)<(?P<left>[\d:?]+)"
)
_POINTERS = ("Next: ", "Page: ")  # lines of our scripts that name a command or a file
_STEP_UP = re.compile(r"\x1b\[[A-Z]")  # between nested bars
_starting = threading.Lock()  # of this server, which is the only one in its workspace


@dataclass(frozen=True)
class Stage:
    """One command line of a job."""

    name: str
    command: tuple[str, ...]  # a script of ours, then its flags
    goes_on: bool = False  # with the next stage after exit code 1: some files could not be used

    def __str__(self) -> str:
        """As one would type it."""
        script, *flags = self.command
        path = Path(script) if Path.cwd() == CODE_ROOT else CODE_ROOT / script
        return " ".join(["python", *map(quote, [path.as_posix(), *flags])])


@dataclass(frozen=True)
class Bar:
    """The progress bar that a command shows."""

    what: str
    share: float  # 0 to 1
    left: str  # time, as 1:05

    def __str__(self) -> str:
        return f"{self.what or 'working'}: {self.share:.0%}, {self.left} left"


class Job:
    """One that was started at some time, by this server or another."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, folder.name
        found = json.loads((folder / "job.json").read_text("utf-8"))
        self.kind: str = found["kind"]
        self.about: dict[str, Any] = found["about"]
        self.stages = [Stage(entry["name"], tuple(entry["command"]), entry["goes_on"]) for entry in found["stages"]]

    @property
    def codes(self) -> list[int]:
        """Exit codes of the stages that have ended."""
        return self._state().get("codes", [])

    @property
    def status(self) -> str:
        """`running`, `done`, `stopped`, `failed`, or `interrupted` where the runner or the machine died."""
        if is_locked(self.folder):
            return "running"
        if self.first_open == len(self.stages):
            return "done"
        if not self._state().get("has_ended"):
            return "interrupted"
        return "stopped" if self.is_stopping else "failed"

    @property
    def is_stopping(self) -> bool:
        """Whether somebody has asked it to stop."""
        return (self.folder / "stop").exists()

    @property
    def first_open(self) -> int:
        """Number of the first stage that is not done."""
        done = [code == 0 or (code == 1 and stage.goes_on) for code, stage in zip(self.codes, self.stages)]
        return done.index(False) if False in done else len(done)

    def log(self, limit: int = 400) -> str:
        """The last lines of what the commands said, as a terminal would show them, progress bars left out."""
        lines = [line.rstrip("\r").rpartition("\r")[2] for line in self._tail().split("\n")]
        return "\n".join([printable(line, None) for line in lines if line.strip() and not _BAR.search(line)][-limit:])

    def lines(self) -> list[str]:
        """What the commands printed in whole lines, from the beginning; for the JSON lines of a script."""
        text = (self.folder / "log.txt").read_text("utf-8", "replace")
        return [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]

    def bar(self) -> Bar | None:
        """The progress bar of the command that runs; None before it has one and after it has ended."""
        tail = self._tail()
        found = list(_BAR.finditer(tail, tail.rfind("\n$ ") + 1))
        if not found:
            return None
        last = found[-1]
        if last["percent"] == "100":
            return None
        return Bar(printable((last["what"] or "").strip()), int(last["percent"]) / 100, last["left"])

    def last_error(self) -> str:
        """The line that says why it failed."""
        lines = [line for line in self.log().splitlines() if not line.startswith(_POINTERS)]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return errors[-1] if errors else (lines[-1] if lines else "it said nothing")

    def stop(self) -> None:
        """Asks it to stop, as Ctrl-C does; asked again, it is killed."""
        with (self.folder / "stop").open("a") as file:
            file.write("stop\n")

    def wait(self, seconds: float) -> bool:
        """Waits until it has ended, for so long at most; whether it has."""
        deadline = time.monotonic() + seconds
        while self.status == "running" and time.monotonic() < deadline:
            time.sleep(0.1)
        return self.status != "running"

    def resume(self) -> None:
        """Goes on with the stages that are not done; the scripts go on where they stopped."""
        with _starting:
            _refuse_second(self.kind)
            (self.folder / "stop").unlink(missing_ok=True)
            _start_runner(self.folder, self.codes[: self.first_open])

    def _state(self) -> dict[str, Any]:
        try:
            return json.loads((self.folder / "state.json").read_text("utf-8"))
        except (OSError, ValueError):
            return {}

    def _tail(self) -> str:
        try:
            with (self.folder / "log.txt").open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL))
                return _STEP_UP.sub("", file.read().decode("utf-8", "replace"))
        except OSError:
            return ""


def start(kind: str, stages: list[Stage], **about: Any) -> Job:
    """Starts a job, with what the page wants to know of it later (plain values); a UsageError where one runs."""
    with _starting:
        _refuse_second(kind)
        folder = _make_folder(kind)
        content = [{"name": stage.name, "command": stage.command, "goes_on": stage.goes_on} for stage in stages]
        write_json(folder / "job.json", {"kind": kind, "about": about, "stages": content})
        _start_runner(folder, [])
    for old in find(kind)[KEPT:]:
        if old.status != "running":
            shutil.rmtree(old.folder, ignore_errors=True)
    return Job(folder)


def _make_folder(kind: str) -> Path:
    """A new folder whose name comes behind those of earlier jobs in the alphabet."""
    make_folder(JOBS)
    while True:
        folder = JOBS / f"{datetime.now():%Y-%m-%d-%H-%M-%S-%f}-{kind}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder


def find(kind: str) -> list[Job]:
    """The jobs of a kind, the newest first."""
    folders = sorted(JOBS.glob(f"*-{kind}"), reverse=True)
    return [Job(folder) for folder in folders if (folder / "job.json").is_file()]


def running(kind: str) -> Job | None:
    """The job of a kind that runs."""
    return next((job for job in find(kind) if job.status == "running"), None)


def all_running() -> list[Job]:
    """The jobs of all kinds that run."""
    return [job for job in find("*") if job.status == "running"]


def get(name: str) -> Job:
    """The job of that name; a UsageError where there is none."""
    folder = JOBS / name
    if not re.fullmatch(r"[\w-]+", name) or not (folder / "job.json").is_file():
        raise UsageError(f"there is no job {printable(name)!r} in {JOBS}")
    return Job(folder)


def is_locked(folder: Path) -> bool:
    """Whether a process is at work in a folder."""
    try:
        with lock_folder(folder):
            return False
    except UsageError:
        return True


def _refuse_second(kind: str) -> None:
    if running(kind) is not None:
        raise UsageError(f"a job of this kind ({kind}) is running. Wait for it, or stop it.")


def _start_runner(folder: Path, codes: list[int]) -> None:
    """Starts the process that does a job from behind the stages that have ended with `codes`, and sees it begin."""
    write_json(folder / "state.json", {"codes": codes, "has_begun": False, "has_ended": False})
    environment = {**os.environ, "PYTHONPATH": str(CODE_ROOT), "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}
    environment["TQDM_MININTERVAL"] = "1"  # seconds between two states of a bar: they all go into the log
    # Out of reach of the terminal's Ctrl-C and of its closing: the server says what becomes of it.
    apart = {"creationflags": subprocess.CREATE_NO_WINDOW} if os.name == "nt" else {"start_new_session": True}
    with (folder / "log.txt").open("ab") as log:
        command = [sys.executable, "-m", "modules.webui.runner", str(folder)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, **apart)
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if json.loads((folder / "state.json").read_text("utf-8"))["has_begun"]:
            break
        time.sleep(0.02)
