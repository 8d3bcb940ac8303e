"""Starts our scripts as processes of their own, without the seconds in which each would import torch.

`start` and `finish` stand in for `subprocess.Popen` and `subprocess.run`. On Linux a server, one for each process of
pytest, has imported the packages of others (none of our modules) and forks for each script; the fork takes over
working folder, environment and output, and then does what `python SCRIPT FLAGS` does, as `__main__`, to its exit code.
Elsewhere a script is started as usual.
"""

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

# What most scripts import sooner or later.
PACKAGES = "torch torch._dynamo torch.utils.tensorboard matplotlib.figure matplotlib.backends.backend_agg scipy.ndimage"
PACKAGES += " scipy.fft soundfile pydantic yaml tqdm pyworld parselmouth"


class Script:
    """A started script, with the methods of `Popen` that tests need."""

    def __init__(self, pid: int, status: int, outputs: list["_Output"]):
        self.pid, self.returncode, self._status, self._outputs = pid, None, status, outputs

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        if self._ended(timeout) is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str | None, str | None]:
        """Waits for the end; returns what went to stdout and to stderr where those were `PIPE`."""
        self.wait(timeout)
        out, err = (output.text() for output in self._outputs)
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = int(os.read(self._status, 10))
            os.close(self._status)
        return self.returncode


class _Output:
    """Where one of a script's outputs goes; what it writes to a pipe is read as it comes."""

    def __init__(self, wanted: int | None, usual: int):
        self._reader, self._read, self._is_mine = None, [], wanted in (subprocess.PIPE, subprocess.DEVNULL)
        if wanted == subprocess.PIPE:
            ours, self.number = os.pipe()
            self._reader = threading.Thread(target=self._collect, args=(ours,), daemon=True)
            self._reader.start()
        elif wanted == subprocess.DEVNULL:
            self.number = os.open(os.devnull, os.O_WRONLY)
        else:
            self.number = usual if wanted is None else wanted

    def hand_over(self) -> None:
        if self._is_mine:
            os.close(self.number)

    def text(self) -> str | None:
        if self._reader is None:
            return None
        self._reader.join()
        return self._read[0].decode("utf-8")

    def _collect(self, number: int) -> None:
        with open(number, "rb") as pipe:
            self._read.append(pipe.read())


def start(
    command, cwd=None, env=None, stdout=None, stderr=None, start_new_session=False, largest_file=None
) -> Script | subprocess.Popen:
    """A process that runs `command`, a script's path and its flags, with what `env` adds to the environment.

    Outputs: None (those of pytest), DEVNULL, PIPE or a number. `largest_file`: its bytes at most, as by ulimit.
    """
    words, env = [str(word) for word in command], {**os.environ, **(env or {})}
    if sys.platform != "linux":
        options = {"cwd": cwd, "env": env, "text": True, "encoding": "utf-8", "start_new_session": start_new_session}
        if largest_file:
            options["preexec_fn"] = functools.partial(_limit, largest_file)
        return subprocess.Popen([sys.executable, *words], stdout=stdout, stderr=stderr, **options)
    order = {"words": words, "cwd": str(cwd or Path.cwd()), "env": env}
    order |= {"new_session": start_new_session, "largest_file": largest_file}
    status, theirs = os.pipe()
    outputs, server = [_Output(stdout, 1), _Output(stderr, 2)], _server()
    socket.send_fds(server, [json.dumps(order).encode() + b"\n"], [theirs, *(output.number for output in outputs)])
    pid = int(server.recv(20))
    os.close(theirs)
    for output in outputs:
        output.hand_over()
    return Script(pid, status, outputs)


def finish(command, timeout: float = 300, **options) -> subprocess.CompletedProcess:
    """What came of `command`, with stdout and stderr as text."""
    process = start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    try:
        out, err = process.communicate(timeout)
    except BaseException:
        process.kill()
        raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@functools.cache
def _server() -> socket.socket:
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, __file__, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    theirs.close()
    atexit.register(lambda: (ours.close(), process.wait()))
    return ours


def _serve(orders: socket.socket) -> dict:
    """Forks for each order that comes in and returns it, in the fork only; the server itself ends with its client."""
    running: dict[int, int] = {}  # process → where its exit code goes
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([orders, awake], [], [])
        if awake in ready:
            os.read(awake, 1000)
            for pid in list(running):
                ended, code = os.waitpid(pid, os.WNOHANG)
                if ended:
                    status = running.pop(pid)
                    with contextlib.suppress(BrokenPipeError):  # the test has not waited for it
                        os.write(status, str(os.waitstatus_to_exitcode(code)).encode())
                    os.close(status)
        if orders in ready:
            text, numbers, _, _ = socket.recv_fds(orders, 2**16, 3)
            if not text:
                os._exit(0)
            while not text.endswith(b"\n"):
                text += orders.recv(2**16)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.dup2(numbers[1], 1)
                os.dup2(numbers[2], 2)
                for number in (awake, wake, orders.detach(), *numbers, *running.values()):
                    os.close(number)
                return json.loads(text)
            running[pid] = numbers[0]
            for number in numbers[1:]:
                os.close(number)
            orders.send(str(pid).encode())


def _limit(largest_file: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))


def _become(order: dict) -> None:
    """Everything that `python` does before it runs a script."""
    if order["new_session"]:
        os.setsid()
    if order["largest_file"]:
        _limit(order["largest_file"])
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in os.environ
    sys.argv[:] = order["words"]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)


if __name__ == "__main__":
    import gc
    import importlib
    import runpy

    for package in PACKAGES.split():
        with contextlib.suppress(ImportError):
            importlib.import_module(package)
    gc.collect()
    gc.freeze()  # or else the end of each fork looks through all of torch, a second long
    _become(_serve(socket.socket(fileno=int(sys.argv[1]))))
    runpy.run_path(sys.argv[0], run_name="__main__")
