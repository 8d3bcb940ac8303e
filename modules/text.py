"""Text from files that nobody here wrote, made safe to show; words made safe to paste into a shell."""

import os
import re
import shlex
import unicodedata
from collections.abc import Iterable

_JOINERS = "\u200c\u200d"  # invisible, but part of how some scripts and emoji are written
_PLAIN_WORD = re.compile(r"[\w./:,+=@-]+")


def printable(text: object, limit: int | None = 200) -> str:
    """Text for a terminal: control characters, text directions and broken letters as `\\x1b`; cut to `limit`."""
    shown = "".join(map(_escape, str(text) if limit is None else str(text)[: limit + 1]))
    return shown if limit is None or len(shown) <= limit else f"{shown[: limit - 3]}..."


def listing(names: Iterable[object], most: int = 20) -> str:
    """The first of some names, in one line."""
    shown = list(map(printable, names))
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")


def counted(number: int, noun: str) -> str:
    """A number of things: "1 clip", "3 clips"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def quote(word: object) -> str:
    """One argument for a command line that is printed: nothing in it is run or expanded by the shell it is pasted into.

    Windows has two shells without a common way to escape; what either would expand becomes `?` there.
    """
    text = printable(word, None)
    is_windows = os.name == "nt"
    if _PLAIN_WORD.fullmatch(text.replace("\\", "/") if is_windows else text):
        return text
    return '"' + re.sub(r'["%$`!]', "?", text) + '"' if is_windows else shlex.quote(text)


def _escape(letter: str) -> str:
    if unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Zl", "Zp") or letter in _JOINERS:
        return letter
    return letter.encode("unicode_escape").decode("ascii")
