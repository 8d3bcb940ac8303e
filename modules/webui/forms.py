"""Controls of the page made from the flags of a script, and the command line that their values stand for.

Labels, defaults and choices are the parser's own, ranges are of `modules/inference/options.py`: neither can drift.
"""

import argparse
import contextlib
import io
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.errors import UsageError
from modules.inference.options import BOUNDS
from modules.text import printable

if TYPE_CHECKING:
    from gradio.components import Component

_NUMBER = re.compile(r"-\d+(\.\d*)?|-\.\d+")  # what argparse takes for a negative number
Values = Mapping[str, Any]  # name of a flag (`dest` of argparse) -> value; None and "" are not given


def actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The flags that --help shows, by name."""
    found = {action.dest: action for action in parser._actions if action.help is not argparse.SUPPRESS}
    return {name: action for name, action in found.items() if name != "help"}


def groups(parser: argparse.ArgumentParser) -> dict[str, list[str]]:
    """Names of the flags under each heading of --help."""
    known = actions(parser)
    found = {
        group.title: [name for name in known if known[name] in group._group_actions] for group in parser._action_groups
    }
    return {title: names for title, names in found.items() if names}


def label(action: argparse.Action) -> str:
    """What the page calls a flag: its long name."""
    return max(action.option_strings or [action.dest], key=len).lstrip("-").replace("_", " ")


def control(action: argparse.Action, **changes: Any) -> "Component":
    """The control for a flag: a box to tick, a list, a number with its range, or text."""
    import gradio

    short = min(action.option_strings, key=len) if action.option_strings else ""
    text = (action.help or "") % {**vars(action), "prog": ""}
    shown = {"label": f"{label(action)} ({short})" if short else label(action), "info": text, **changes}
    choices = shown.pop("choices", action.choices)
    if action.nargs == 0:
        return gradio.Checkbox(value=bool(action.default), **shown)
    default = action.default
    if isinstance(default, list):
        default = " ".join(map(str, default))
    shown.setdefault("value", default.as_posix() if isinstance(default, Path) else default)
    if choices is not None:
        return gradio.Dropdown(choices=list(choices), **shown)
    if action.type in (int, float) and action.nargs is None:
        low, high = BOUNDS.get(action.dest, (None, None))
        step = 1 if action.type is int else 0.01
        return gradio.Number(minimum=low, maximum=high, step=step, precision=0 if action.type is int else None, **shown)
    return gradio.Textbox(**shown)


def command(script: str, parser: argparse.ArgumentParser, values: Values) -> tuple[str, ...]:
    """The script and its flags for these values; those that have their default are left out.

    Nothing in a value can become a flag of its own: the line is parsed again, and must say what was asked for.
    """
    known = actions(parser)
    if strangers := [name for name in values if name not in known]:
        raise UsageError(f"{script} has no flag {printable(strangers[0])!r}")
    wanted = {action.dest: _unset(action) for action in parser._actions if action.default is not argparse.SUPPRESS}
    named, others = [], []
    for name, action in known.items():
        given = _convert(action, values.get(name))
        if given is not None and given != action.default:
            wanted[name] = given
            (named if action.option_strings else others).extend(_words(action, given))
    words = [*others, *named]  # a flag that takes several words would swallow those without a flag
    if vars(_parse(parser, words)) != wanted:
        raise UsageError(f"these values are no flags of {script}: {printable(' '.join(words))}")
    return script, *words


def _unset(action: argparse.Action) -> Any:
    """What argparse gives where a flag is left out."""
    return [] if action.default is None and action.nargs == "*" and not action.option_strings else action.default


def _convert(action: argparse.Action, value: Any) -> Any:
    """A control's value as argparse would give it; None where none is given."""
    if value is None or value == "" or value == [] or (action.nargs == 0 and not value):
        return None
    if action.nargs == 0:
        return True
    kind = action.type or str
    try:
        if action.nargs in ("+", "*"):
            words = shlex.split(value) if isinstance(value, str) else value
            return [kind(str(word)) for word in (words if isinstance(words, list) else [words])]
        return kind(value) if kind in (int, float) else kind(str(value).strip())
    except (ValueError, TypeError, OverflowError, argparse.ArgumentTypeError) as error:
        raise UsageError(f"{label(action)} {printable(value)}: {error}") from None


def _words(action: argparse.Action, given: Any) -> list[str]:
    """The words that argparse reads as this flag with this value."""
    if action.nargs == 0:
        return [action.option_strings[0]]
    words = [_word(value) for value in (given if isinstance(given, list) else [given])]
    looks_like_flags = [word for word in words if word.startswith("-") and not _NUMBER.fullmatch(word)]
    if not looks_like_flags:
        return [*action.option_strings[:1], *words]
    if len(words) > 1 or not action.option_strings:
        raise UsageError(f"{label(action)} {printable(looks_like_flags[0])}: begins with a dash, which a flag does")
    return [f"{max(action.option_strings, key=len)}={words[0]}"]


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return value.as_posix() if isinstance(value, Path) else str(value)


def _parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """What argparse makes of a line; its complaint as a UsageError."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return parser.parse_args(words)
    except SystemExit:
        text = complaint.getvalue().strip().splitlines() or ["unusable"]
        raise UsageError(text[-1].partition("error: ")[2] or text[-1]) from None
