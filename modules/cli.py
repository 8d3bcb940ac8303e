"""What all scripts share: the parser, logging, exit codes and one-line errors.

Exit codes: 0 done · 1 a batch finished but some files failed · 2 the user must change something · 130 interrupted.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from modules.errors import UserError

logger = logging.getLogger(__name__)


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
    """Runs a script's `main(argv)` and ends the process with its exit code, errors of ours as one line on stderr."""
    # Read when torch is first imported: how long a waiting thread of GNU OpenMP spins before it sleeps. By default a
    # training step on two cores takes 0.8 s, but 50 s beside one other busy program; with this it is 0.8 s and 3 s.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    for stream in (sys.stdout, sys.stderr):  # Windows consoles default to a code page that cannot print every name
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        code = main(None) or 0
        sys.stdout.flush()
    except UserError as error:
        _say(logging.ERROR, " ".join(str(error).split()))
        code = 2
    except KeyboardInterrupt:
        _say(logging.INFO, "interrupted")
        code = 130
    except BrokenPipeError:  # `script | head`: the reader has gone, which is not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


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
        log_file.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(log_file, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s\t%(name)s\t%(levelname)s\t%(message)s"))
        handlers.append(file)
    for handler in handlers:
        handler._ours = True
        root.addHandler(handler)
    for noisy in ("matplotlib", "numba", "PIL", "h5py", "tensorboard"):
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
        tqdm.write(level + self.format(record), file=sys.stderr)


def next_step(command: str) -> str:
    """The line that names the next command of the recipe."""
    return f"Next: {command}"
