"""Does one job: runs its command lines one after another, and writes down how each ended.

Started by `modules/webui/jobs.py` as a process of its own, which the page and its server may die beside.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from modules.errors import UsageError
from modules.files import lock_folder, write_json
from modules.pretrained.find import CODE_ROOT
from modules.webui.jobs import Job

_POLL_SECONDS = 0.1
_LOCK_SECONDS = 10.0  # a server that looks whether somebody is at work has the lock for a moment


def main(folder: Path) -> int:
    """Runs the stages that are open; returns the exit code of the last one."""
    job = Job(folder)
    with _lock(folder):
        codes = job.codes
        _write(folder, codes, has_ended=False)
        for number in range(job.first_open, len(job.stages)):
            stage = job.stages[number]
            with (folder / "log.txt").open("a", encoding="utf-8") as log:
                log.write(f"\n$ {stage}\n")
            codes.append(_run(stage.command, folder / "stop"))
            _write(folder, codes, has_ended=False)
            if codes[-1] not in ((0, 1) if stage.goes_on else (0,)) or (folder / "stop").exists():
                break
        _write(folder, codes, has_ended=True)
    return codes[-1] if codes else 0


def _write(folder: Path, codes: list[int], has_ended: bool) -> None:
    write_json(folder / "state.json", {"codes": codes, "has_begun": True, "has_ended": has_ended})


@contextlib.contextmanager
def _lock(folder: Path):
    deadline = time.monotonic() + _LOCK_SECONDS
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(lock_folder(folder))
                break
            except UsageError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_SECONDS)
        yield


def _run(command: tuple[str, ...], stop: Path) -> int:
    """The exit code of one of our scripts, which is told to stop when that file is there, and killed when it has a
    second line."""
    script, *flags = command
    apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if os.name == "nt" else {"start_new_session": True}
    process = subprocess.Popen([sys.executable, str(CODE_ROOT / script), *flags], stdin=subprocess.DEVNULL, **apart)
    asked = 0
    while process.poll() is None:
        with contextlib.suppress(OSError):
            lines = len(stop.read_text("utf-8").splitlines())
            if lines and not asked:
                asked = 1
                process.send_signal(signal.CTRL_BREAK_EVENT if os.name == "nt" else signal.SIGTERM)
            if lines > 1:
                _kill(process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_SECONDS)
    return process.returncode


def _kill(process: subprocess.Popen) -> None:
    """Kills it with all that it has started."""
    if os.name == "nt":
        subprocess.run(["taskkill", "/f", "/t", "/pid", str(process.pid)], capture_output=True)
    else:
        os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
