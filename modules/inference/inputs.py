"""Which files typed names mean: names under `raw/`, paths, folders and patterns."""

import glob
import itertools
import logging
from dataclasses import dataclass
from pathlib import Path

from modules.audio.io import AUDIO_SUFFIXES
from modules.errors import AudioError
from modules.files import make_folder

logger = logging.getLogger(__name__)

RAW = Path("raw")


@dataclass(frozen=True)
class Named:
    """A file that was asked for."""

    label: str  # its result is named after it: the name as typed, for a file of a folder or pattern its place there
    path: Path
    position: int  # which of the typed names it comes from, from 0


def find_sources(names: list[str], folder: Path = RAW) -> tuple[list[Named], bool]:
    """The files that names mean, each once, and whether all names have one; a name without a file is reported.

    A folder stands for all audio below it, a pattern (`*.flac`, `album/**/*.wav`) for all that matches. Both are looked
    for in `folder` first, which is made where there is none: it is where users look for the place to put their files.
    """
    make_folder(folder)
    found: dict[Path, Named] = {}
    complete = True
    for position, name in enumerate(names):
        try:
            pairs = find_all(name, folder)
        except AudioError as error:
            if len(names) == 1:
                raise
            logger.error("%s", error)
            complete = False
            continue
        for label, path in pairs:
            found.setdefault(path.resolve(), Named(label, path, position))
    return list(found.values()), complete


def find_all(name: str, folder: Path = RAW) -> list[tuple[str, Path]]:
    """Labels and files of one name; a file's own name goes before a folder's, and that before a pattern's."""
    if not name.strip():
        raise AudioError(f"-n/--clean_names: a name is empty. {_listing(folder)}")
    typed = Path(name).expanduser()
    for path in (folder / typed, typed if typed.suffix else folder / f"{typed}.wav", typed):
        if path.is_file():
            return [(name, path)]
    for root in (folder / typed, typed):
        if root.is_dir():
            inside = [(_label(path, root, folder), path) for path in sorted(root.rglob("*")) if _is_audio(path)]
            if not inside:
                raise AudioError(f"{root}: the folder holds no audio. {_listing(folder)}")
            return inside
    if glob.has_magic(name):
        for pattern in (folder / typed, typed):
            # The folders before the first with a wildcard.
            root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts[:-1]))
            matches = sorted(path for path in root.glob(pattern.relative_to(root).as_posix()) if _is_audio(path))
            if matches:
                return [(_label(path, root, folder), path) for path in matches]
        raise AudioError(f"{folder / name}: matches no audio file. {_listing(folder)}")
    raise AudioError(f"{folder / name}: no such file. {_listing(folder)}")


def _label(path: Path, root: Path, folder: Path) -> str:
    """Where a file lies below `folder`; elsewhere, below `root` with the name of `root` before it."""
    if path.resolve().is_relative_to(folder.resolve()):
        return path.resolve().relative_to(folder.resolve()).as_posix()
    return (Path(root.resolve().name) / path.relative_to(root)).as_posix()


def _listing(folder: Path) -> str:
    """What there is to convert, in words."""
    if not folder.is_dir():
        return f"There is no folder {folder}/; put the file there, or give its path."
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if _is_audio(path))
    if not found:
        return f"{folder}/ holds no audio; put the file there, or give its path."
    more = f" and {len(found) - 20} more" if len(found) > 20 else ""
    return f"In {folder}/: {', '.join(found[:20])}{more}."


def _is_audio(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")
