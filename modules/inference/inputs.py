"""Which files typed names mean: names under `raw/`, paths, folders and patterns."""

import contextlib
import glob
import itertools
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from modules.audio.io import AUDIO_SUFFIXES
from modules.errors import AudioError, UserError, reason_of
from modules.files import make_folder
from modules.text import printable

logger = logging.getLogger(__name__)

RAW = Path("raw")
_MISSING = "no such file"


@dataclass(frozen=True)
class Named:
    """A file that was asked for."""

    label: str  # its result is named after it: the name as typed, for a file of a folder or pattern its place there
    path: Path
    position: int  # which of the typed names it comes from, from 0


def find_sources(
    names: list[str], folder: Path = RAW, keys: Sequence[object] | None = None
) -> tuple[list[Named], bool]:
    """The files that names mean, each once, and whether all could be found; what could not is reported.

    A folder stands for all audio below it, a pattern (`*.flac`, `album/**/*.wav`) for all that matches. Both are looked
    for in `folder` first, which is made where there is none: it is where users look for the place to put their files.
    With `keys`, one for each name, a file that two names mean is there once for each key.
    """
    make_folder(folder)
    found: dict[tuple[Path, object], Named] = {}
    complete = True
    for position, name in enumerate(names):
        try:
            pairs, problems = find_all(name, folder)
        except UserError as error:
            if len(names) == 1:
                raise
            pairs, problems = [], [str(error)]
        for problem in problems:
            logger.error("%s", problem)
        complete = complete and not problems
        for label, path in pairs:
            found.setdefault((path.resolve(), keys and keys[position]), Named(label, path, position))
    return list(found.values()), complete


def find_all(name: str, folder: Path = RAW) -> tuple[list[tuple[str, Path]], list[str]]:
    """Labels and files of one name, and what is wrong with others that it means.

    The literal name goes first, of a file before that of a folder; then a name without its suffix, then a pattern.
    """
    if not name.strip():
        raise AudioError(f"-n/--clean_names: a name is empty. {_listing(folder)}")
    typed = home = Path(name.replace("\0", "\N{SYMBOL FOR NULL}"))
    with contextlib.suppress(RuntimeError):  # there is no such user
        home = typed.expanduser()
    places = [(name, folder / typed), (name, typed)] + ([(str(home), home)] if home != typed else [])
    for label, path in places[:1] + ([] if typed.suffix else [(name, folder / f"{typed}.wav")]) + places[1:]:
        if _is(S_ISREG, path):
            return [(label, path)], []
    for _, root in places:
        if _is(S_ISDIR, root):
            return _all_below(root, folder)
    for label, path in places:
        if found := _without_suffix(path):
            return [(label, found)], []
    if glob.has_magic(name):
        for _, pattern in places:
            if matches := _matches(pattern, folder):
                return matches, []
        raise AudioError(f"{printable(folder / name)}: matches no audio file. {_listing(folder)}")
    for _, path in places:
        if (why := _why_unusable(path)) != _MISSING:
            raise AudioError(f"{printable(path)}: {why}")
    raise AudioError(f"{printable(folder / typed)}: {_MISSING}. {_listing(folder)}")


def _all_below(root: Path, folder: Path) -> tuple[list[tuple[str, Path]], list[str]]:
    """All audio below a folder, and what of it cannot be read."""
    found, problems, n_others = [], [], 0

    def note(error: OSError) -> None:
        problems.append(f"{printable(error.filename)}: {reason_of(error, error.filename)}")

    for here, _, files in os.walk(root, onerror=note):
        for path in (Path(here, name) for name in files):
            if _has_audio_name(path):
                if _is(S_ISREG, path):
                    found.append(path)
                else:
                    problems.append(f"{printable(path)}: {_why_unusable(path)}")
            else:
                n_others += not path.name.startswith(".")
    if n_others:
        logger.info("%s: %d files whose names are not those of audio were left out", printable(root), n_others)
    if not found:
        raise AudioError("; ".join(problems) or f"{printable(root)}: the folder holds no audio. {_listing(folder)}")
    return [(_label(path, root, folder), path) for path in sorted(found)], problems


def _without_suffix(path: Path) -> Path | None:
    """The audio file that `path` names but for its suffix, or for how its accents are written; .wav goes first."""
    try:
        beside = sorted(path.parent.iterdir())
    except OSError:
        return None
    wanted = unicodedata.normalize("NFC", path.name)
    spelt = [unicodedata.normalize("NFC", file.name) for file in beside]
    stems = [unicodedata.normalize("NFC", file.stem) for file in beside]
    names = [file for file, *forms in zip(beside, spelt, stems) if wanted in forms and _is_audio(file)]
    names.sort(key=lambda file: (unicodedata.normalize("NFC", file.name) != wanted, file.suffix.lower() != ".wav"))
    if len(names) > 1 and names[0].suffix.lower() != ".wav":
        others = ", ".join(printable(file.name) for file in names[1:])
        logger.info("-n %s: taking %s (there is also %s)", printable(path.name), printable(names[0]), others)
    return names[0] if names else None


def _matches(pattern: Path, folder: Path) -> list[tuple[str, Path]]:
    """Labels and files that a pattern stands for."""
    # The folders before the first with a wildcard.
    root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts[:-1]))
    parts = pattern.relative_to(root).parts
    rest = "/".join(part if part == "**" else re.sub(r"\*{2,}", "*", part) for part in parts)
    try:
        return [(_label(path, root, folder), path) for path in sorted(root.glob(rest)) if _is_audio(path)]
    except (OSError, ValueError):  # nothing can be called so, or be listed there
        return []


def _label(path: Path, root: Path, folder: Path) -> str:
    """Where a file lies below `folder`; elsewhere, below `root` with the name of `root` before it."""
    if path.resolve().is_relative_to(folder.resolve()):
        return path.resolve().relative_to(folder.resolve()).as_posix()
    return (Path(root.resolve().name) / path.relative_to(root)).as_posix()


def _listing(folder: Path) -> str:
    """What there is to convert, in words."""
    if not folder.is_dir():
        return f"There is no folder {folder}/; put the file there, or give its path."
    paths = (Path(here, name) for here, _, files in os.walk(folder) for name in files)
    found = sorted(printable(path.relative_to(folder).as_posix()) for path in paths if _is_audio(path))
    if not found:
        return f"{folder}/ holds no audio; put the file there, or give its path."
    more = f" and {len(found) - 20} more" if len(found) > 20 else ""
    return f"In {folder}/: {', '.join(found[:20])}{more}."


def _why_unusable(path: Path) -> str:
    try:
        path.stat()
    except (FileNotFoundError, ValueError):  # the latter for what cannot be a name
        return "is a link to nothing" if os.path.lexists(path) else _MISSING
    except OSError as error:
        return reason_of(error, path)
    return "is neither a file nor a folder"


def _is(kind: Callable[[int], bool], path: Path) -> bool:
    """Whether a path is of a kind; False also for names that cannot be, of which pathlib's own tests make errors."""
    try:
        return kind(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def _has_audio_name(path: Path) -> bool:
    return path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")


def _is_audio(path: Path) -> bool:
    return _has_audio_name(path) and _is(S_ISREG, path)
