"""Our scripts run from a cell: their output goes into it, and its stop button reaches them.

Needs Python and Jupyter alone; the scripts run in an environment of their own, which quickstart.py makes.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from IPython.display import display

import quickstart

CODE = quickstart.CODE
_REDRAW_SECONDS = 0.5  # a progress bar
_POLL_SECONDS = 0.2
# What a kernel's environment sets for itself: its way of drawing, its packages, where its pip installs.
_OF_THE_KERNEL = ("MPLBACKEND", "PYTHONPATH", "PIP_USER", "PIP_TARGET")

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1  # of prctl(2): the signal that a process gets when the one that started it is gone


class Stop(Exception):
    """Ends a cell, and those after it, with one line; IPython shows no traceback of it."""

    def _render_traceback_(self) -> list[str]:
        return [f"error: {self}"]


class Scripts:
    """Our scripts, run in a workspace by the Python of an environment."""

    def __init__(self, workspace: Path, python: str | Path = "") -> None:
        self.workspace, self.python = workspace, python
        self.lines: list[str] = []  # of the script that ran last

    def install(self, requirements: str) -> None:
        """Makes the environment beside the code and installs into it, once; not where another one was given."""
        if not self.python:
            self.python = sys.executable
            self.run("quickstart.py", "install", requirements)
            self.python = quickstart.environment_python()

    def run(
        self,
        script: str,
        *flags: str | int | Path,
        goes_on: bool = False,
        on_line: Callable[[str], None] | None = None,
        **variables: str,
    ) -> None:
        """Runs a script to its end, in the workspace; the cell shows the command, and its lines as they come.

        The stop button of the notebook reaches it as Ctrl-C, and it has the time it needs to save; pressed again, it
        ends without saving.

        Args:
            goes_on: with the next cell after exit code 1, which says that something was found or left out.
            on_line: is called with each line.
            variables: of the environment, as WEBUI_AUTH.

        Raises:
            Stop: the script failed, or was stopped.
        """
        words = [quickstart.shown(flag, self.workspace) if isinstance(flag, Path) else str(flag) for flag in flags]
        quickstart.say(["python", quickstart.shown(CODE / script, self.workspace), *words])
        process = self._start([str(self.python), str(CODE / script), *words], variables)
        output, chunks, stops = _Output(on_line), _read(process), 0
        self.lines = output.lines
        while True:
            try:
                chunk = chunks.get(timeout=_POLL_SECONDS)
                if not chunk:
                    break
                output.write(chunk)
            except queue.Empty:
                continue
            except KeyboardInterrupt:
                stops += 1
                _interrupt(process, stops)
        output.end()
        code = process.wait()
        if stops:
            raise Stop(f"{script} was stopped. Run this cell again to go on.")
        if code and not (goes_on and code == 1):
            raise Stop(f"{script} ended with code {code}; the lines above say why.")

    def sung(self) -> tuple[Path, Path]:
        """The song and its conversion, which `inference_main.py --json` has just named."""
        about = next(json.loads(line) for line in self.lines if line.startswith("{"))
        return self.workspace / about["source"], self.workspace / about["result"]

    def _start(self, command: list[str], variables: dict[str, str]) -> subprocess.Popen[bytes]:
        """In a group of its own: Jupyter interrupts the kernel's whole group, and a second Ctrl-C would not save."""
        kept = {name: value for name, value in os.environ.items() if name not in _OF_THE_KERNEL}
        environment = {**kept, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", **variables}
        apart = {"start_new_session": True}
        if os.name == "nt":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        elif _LIBC is not None:
            apart["preexec_fn"] = _end_with_the_kernel
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "bufsize": 0}
        return subprocess.Popen(command, cwd=self.workspace, env=environment, **pipes, **apart)


def _end_with_the_kernel() -> None:
    """Lets a script save and end when the kernel is killed or restarted, and not train on with nobody to stop it."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _interrupt(process: subprocess.Popen[bytes], times: int) -> None:
    """As Ctrl-C does in a terminal; the third time it is killed."""
    print("stopping, which saves ...", flush=True)
    with contextlib.suppress(ProcessLookupError):
        if times > 2:
            process.kill()
        elif os.name != "nt":
            os.killpg(process.pid, signal.SIGINT)
        else:
            try:
                process.send_signal(signal.CTRL_BREAK_EVENT)
            except OSError:  # no console to send it through
                process.terminate()


def _read(process: subprocess.Popen[bytes]) -> queue.Queue[bytes]:
    """What a process says, as it comes; nothing at its end. Read by a thread: on Windows no signal ends a read."""
    chunks: queue.Queue[bytes] = queue.Queue()

    def read() -> None:
        while chunk := os.read(process.stdout.fileno(), 65536):
            chunks.put(chunk)
        process.stdout.close()
        chunks.put(b"")

    threading.Thread(target=read, daemon=True).start()
    return chunks


class _Output:
    """Shows a script's output: lines below each other, a progress bar in one place that is drawn again."""

    def __init__(self, on_line: Callable[[str], None] | None) -> None:
        self.lines: list[str] = []
        self._on_line = on_line
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._open = ""  # the line that has not ended
        self._bar, self._drawn = None, 0.0  # the bar's place in the cell, and when it was last drawn

    def write(self, chunk: bytes) -> None:
        text = (self._open + self._decoder.decode(chunk)).replace("\r\n", "\n")
        *ended, self._open = text.split("\n")
        for line in ended:
            self._end_line(_last_drawn(line), is_bar="\r" in line)
        if "\r" in self._open.rstrip("\r"):
            self._open = "\r" + _last_drawn(self._open) + ("\r" if self._open.endswith("\r") else "")
            if time.monotonic() - self._drawn >= _REDRAW_SECONDS:
                self._draw(self._open.strip("\r"))

    def end(self) -> None:
        if rest := _last_drawn(self._open):
            self._end_line(rest, is_bar="\r" in self._open)
        self._open = ""

    def _end_line(self, line: str, is_bar: bool) -> None:
        self.lines.append(line)
        if is_bar and "%|" in line:
            self._draw(line)
            self._bar = None
        elif line or not is_bar:
            print(line, flush=True)
        if self._on_line:
            self._on_line(line)

    def _draw(self, text: str) -> None:
        shown = {"text/plain": text}
        self._drawn = time.monotonic()
        if self._bar is None:
            self._bar = display(shown, raw=True, display_id=True)
        else:
            self._bar.update(shown, raw=True)


def _last_drawn(line: str) -> str:
    """What a terminal would show of a line that was drawn over with carriage returns."""
    return next((part for part in reversed(line.split("\r")) if part.strip()), "")
