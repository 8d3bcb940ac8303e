"""What all scripts share: the parser, logging, exit codes and one-line errors.

Exit codes: 0 done · 1 a batch finished but some files failed · 2 the user must change something · 130 interrupted.
"""

import argparse
import contextlib
import errno
import gc
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from modules.errors import FAILURES, is_out_of_memory, reason_of
from modules.text import printable, quote

logger = logging.getLogger(__name__)

# What no name may send to a terminal; line ends, tabs and the step upwards of nested progress bars may.
_CONTROLS = re.compile(r"(?!\x1b\[A)[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the docstring's lines and adds `(default: ...)` to every flag that takes a value."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        takes_value = action.nargs != 0 and action.default not in (None, argparse.SUPPRESS, "")
        if takes_value and "default" not in text:
            shown = " ".join(map(str, action.default)) if isinstance(action.default, list) else "%(default)s"
            text += f" (default: {shown})"
        return text


def make_parser(script: str, description: str | None) -> argparse.ArgumentParser:
    """A parser for a script's `__file__` (whose name help shows) and `__doc__`; its help names every default."""
    return argparse.ArgumentParser(prog=Path(script).name, description=description, formatter_class=_HelpFormatter)


def run(main: Callable[[list[str] | None], int | None]) -> None:
    """Runs a script's `main(argv)` and ends the process with its exit code, errors that a user can mend as one line.

    SIGTERM, SIGHUP and Windows' Ctrl-Break end it as Ctrl-C does, where nothing else listens. Output that nobody takes,
    or that a full disk refuses, ends no work; what a full disk refused is an error in the end.
    """
    # Read when torch is first imported: how long a waiting thread of GNU OpenMP spins before it sleeps. By default a
    # training step on two cores takes 0.8 s, but 50 s beside one other busy program; with this it is 0.8 s and 3 s.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    with _signals_as_interrupts(), _guarded_output() as outputs:
        try:
            code = main(None) or 0
        except KeyboardInterrupt as stop:
            _say(logging.INFO, f"stopped by {stop}" if isinstance(stop, _Stopped) else "interrupted")
            code = stop.code if isinstance(stop, _Stopped) else 130
        except Exception as error:
            package = _foreign_package(error)
            if not (isinstance(error, FAILURES) or is_out_of_memory(error) or package):
                raise
            remedy = f". {package} must be installed anew: pip install -r requirements.txt"
            _say(logging.ERROR, reason_of(error) + (remedy if package and not is_out_of_memory(error) else ""))
            code = 2
        failed = [output.error for output in outputs if output.flush_at_end()]
        if failed:
            _say(logging.ERROR, f"what was printed is not whole: {reason_of(failed[0])}")
            code = code or 1
    gc.freeze()  # Python would look through all of torch for cycles before it ends: 0.4 s less
    sys.exit(code)


def _foreign_package(error: BaseException) -> str:
    """The package of others that is missing or cannot be loaded, if that is the error."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    ours = Path(__file__).resolve().parent.parent
    return "" if (ours / package).is_dir() or (ours / f"{package}.py").is_file() else package


class _Stopped(KeyboardInterrupt):
    """A signal that asks to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


@contextlib.contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        for one in numbers:  # a closing terminal sends both, and what is saved now must not be cut short
            signal.signal(one, signal.SIG_IGN)
        raise _Stopped(number)

    wanted = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]
    numbers = [number for number in wanted if signal.getsignal(number) is signal.SIG_DFL]  # nohup ignores SIGHUP
    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


class _Output:
    """stdout or stderr, whose failing ends nothing."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream  # None where the shell closed it (>&-)
        self.error: Exception | None = None if stream else OSError(errno.EBADF, "the output is closed")
        self._used = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._used = True
        self._attempt("write", _CONTROLS.sub(lambda found: printable(found[0]), text))
        return len(text)

    def flush(self) -> None:
        self._attempt("flush")

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def _attempt(self, method: str, *text: str) -> None:
        try:
            if self._stream is not None:
                getattr(self._stream, method)(*text)
        except (OSError, ValueError) as error:  # ValueError: it was closed meanwhile
            self.error = error

    def flush_at_end(self) -> bool:
        """Writes what is left; whether something was lost that somebody waits for (`script | head` has had enough)."""
        self.flush()
        if self.error is not None and self._stream is not None:
            with contextlib.suppress(OSError, ValueError):  # else Python fails again to write the rest, when it ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        return self._used and self.error is not None and not isinstance(self.error, BrokenPipeError)


@contextlib.contextmanager
def _guarded_output() -> Iterator[tuple[_Output, _Output]]:
    for descriptor in (0, 1, 2):  # a closed one would become the number of the next file that is opened
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    before = sys.stdout, sys.stderr
    for stream in before:  # Windows consoles default to a code page that cannot print every name
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    sys.stdout, sys.stderr = outputs = _Output(before[0]), _Output(before[1])
    try:
        yield outputs
    finally:
        sys.stdout, sys.stderr = before


def configure_logging(log_file: Path | None = None, level: int = logging.INFO) -> None:
    """Sends log records of this and lower layers to stderr, and to `log_file` as well where one is given."""
    root = logging.getLogger()
    root.setLevel(level)
    for handler in list(root.handlers):
        if getattr(handler, "_ours", False):
            root.removeHandler(handler)
            handler.close()
    handlers: list[logging.Handler] = [_Console()]
    if log_file is not None:
        try:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            file = _LogFile(log_file, encoding="utf-8", errors="backslashreplace")
            file.setFormatter(logging.Formatter("%(asctime)s\t%(name)s\t%(levelname)s\t%(message)s"))
            handlers.append(file)
        except OSError as error:
            handlers[0].emit(_unwritable(log_file, error))
    for handler in handlers:
        handler._ours = True
        root.addHandler(handler)
    for noisy in ("matplotlib", "numba", "PIL", "h5py", "tensorboard", "httpx", "faiss"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _say(level: int, text: str) -> None:
    """Logs how a script ended, also one that ended before it set up its logging."""
    if not any(getattr(handler, "_ours", False) for handler in logging.getLogger().handlers):
        configure_logging()
    logger.log(level, "%s", text)


class _Console(logging.Handler):
    """Writes a record above a running progress bar; a level name stands before what needs attention."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        text = self.format(record) if record.exc_info else printable(self.format(record), None)
        with contextlib.suppress(OSError, ValueError):  # a closed terminal ends no work
            tqdm.write(level + text, file=sys.stderr)


class _LogFile(logging.FileHandler):
    """A log that cannot be written says so once and ends no work."""

    _has_failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._has_failed:
            self._has_failed = True
            _Console().emit(_unwritable(Path(self.baseFilename), sys.exc_info()[1]))

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what is left to write cannot be written either
            super().close()


def _unwritable(path: Path, error: BaseException | None) -> logging.LogRecord:
    text = f"{path}: the log cannot be written ({reason_of(error or OSError(), path)}); the work goes on"
    return logging.LogRecord(__name__, logging.WARNING, "", 0, text, None, None)


def next_step(*words: object) -> str:
    """The line that names the next command of the recipe, ready to be pasted; each word but the first is quoted."""
    return f"Next: {' '.join([str(words[0]), *map(quote, words[1:])])}"
