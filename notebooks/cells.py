"""What the cells of both notebooks share: where they run, and our scripts with their output and their stopping.

Needs Python and Jupyter alone; the scripts run in an environment of their own, which quickstart.py makes.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from IPython.display import Audio, display

import quickstart

CODE = quickstart.CODE
DRIVE = Path("/content/drive")  # where Colab mounts Google Drive
_REDRAW_SECONDS = 0.5  # a progress bar
_POLL_SECONDS = 0.2
_LARGEST_PLAYER = 30_000_000  # bytes of a song that is put into the notebook
# What a kernel's environment sets for itself: its way of drawing, its packages, where its pip installs.
_OF_THE_KERNEL = ("MPLBACKEND", "PYTHONPATH", "PIP_USER", "PIP_TARGET")

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1  # of prctl(2): the signal that a process gets when the one that started it is gone


class Stop(Exception):
    """Ends a cell, and those after it, with one line; IPython shows no traceback of it."""

    def _render_traceback_(self) -> list[str]:
        return [f"error: {self}"]


def platform() -> str:
    """Colab, Kaggle, SageMaker, JupyterHub or Jupyter: who runs this kernel."""
    marks = {
        "Colab": "google.colab" in sys.modules,
        "Kaggle": "KAGGLE_KERNEL_RUN_TYPE" in os.environ,
        "SageMaker": Path("/opt/ml/metadata/resource-metadata.json").is_file(),
        "JupyterHub": "JUPYTERHUB_SERVICE_PREFIX" in os.environ,
    }
    return next((name for name, is_here in marks.items() if is_here), "Jupyter")


def open_workspace(folder: str) -> Path:
    """The folder that keeps everything, made where it is not there; says whether the platform keeps it."""
    usual = {"Colab": "/content/workspace", "Kaggle": "/kaggle/working"}
    path = Path(folder or usual.get(platform(), "workspace")).expanduser().resolve()
    path.mkdir(parents=True, exist_ok=True)
    print(f"{platform()} · Python {sys.version.split()[0]} · workspace {path}")
    if platform() == "Colab" and DRIVE not in path.parents:
        print("warning: this folder is lost with the runtime. Set WORKSPACE to a folder below /content/drive/MyDrive")
    return path


def recordings(data: str, workspace: Path) -> Path:
    """The folder with one folder for each speaker: `data`, or what the zip `data` holds, or the included samples."""
    path = Path(data).expanduser().resolve() if data else CODE / "samples" / "voices"
    if path.is_file():
        path = _unpacked(path, workspace / "dataset_raw")
    if not path.is_dir():
        raise Stop(f"DATA: there is no {path}")
    return path


def _unpacked(archive: Path, folder: Path) -> Path:
    """Unpacks a zip once; returns the folder of speakers, which may lie in one that holds nothing else."""
    target = folder / archive.stem
    if not target.exists():
        part = folder / f"{archive.stem}.part"
        shutil.rmtree(part, ignore_errors=True)
        try:
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(part, [name for name in opened.namelist() if not name.startswith("__MACOSX/")])
        except zipfile.BadZipFile:
            raise Stop(f"DATA: {archive} is neither a folder nor a zip") from None
        part.rename(target)
    while len(inside := list(target.iterdir())) == 1 and all(path.is_dir() for path in inside[0].glob("*")):
        target = inside[0]
    return target


def existing(name: str) -> Path | str:
    """A file as a path from anywhere; a name that is no file here is one below raw/ in the workspace."""
    path = Path(name).expanduser()
    return path.resolve() if path.is_file() else name


def player(path: Path) -> None:
    """Shows a player with the sound in it; names the file alone where that would make the notebook too large."""
    print(path)
    if path.stat().st_size <= _LARGEST_PLAYER:
        display(Audio(filename=str(path)))


def server_path() -> str:
    """The path of the Jupyter server that looks after this kernel, such as /user/NAME/."""
    from jupyter_core.paths import jupyter_runtime_dir

    servers = sorted(Path(jupyter_runtime_dir()).glob("jpserver-*.json"), key=lambda path: path.stat().st_mtime)
    found = json.loads(servers[-1].read_text("utf-8")) if servers else {}
    return found.get("base_url") or os.environ.get("JUPYTERHUB_SERVICE_PREFIX") or "/"


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
