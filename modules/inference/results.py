"""Where results go: their names, and which request each is the result of, so that none replaces another's."""

import contextlib
import json
import logging
import os
import re
import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path

from modules.errors import AudioError, reason_of
from modules.files import is_alive, set_aside, write_text
from modules.inference.options import ConversionOptions

logger = logging.getLogger(__name__)

RESULTS = Path("results")
JOURNAL = ".conversions.json"  # in each folder of results: name -> key of the request that it is the result of


def result_name(name: str, options: ConversionOptions, predictor: str, kind: str = "sovits") -> str:
    """The name of a result: `song.wav_0key_alto_sovits_pm.flac`, or `song.wav_0key_alto_0.5_sovits_pm.flac`.

    `kind` is "sovits", "sovdiff" for shallow diffusion, or "diff" for diffusion alone.
    """
    return f"{_voice_name(name, options)}_{kind}_{predictor}.{options.output_format}"


def cover_name(name: str, options: ConversionOptions) -> str:
    """The name of a cover: `song.wav_0key_alto_cover.flac`."""
    return f"{_voice_name(name, options)}_cover.{options.output_format}"


def cover_folder(name: str) -> str:
    """The folder for what is made on the way to the covers of a song: `song.wav_cover`."""
    return f"{_local(name)}_cover"


def _voice_name(name: str, options: ConversionOptions) -> str:
    key = "auto" if options.predict_f0 else f"{options.transpose:g}key"
    retrieved = f"_{options.retrieval_ratio}" if options.retrieves else ""
    speaker = re.sub(r"[/\\\x00-\x1f\x7f]", "_", options.speaker)
    return f"{_local(name)}_{key}_{speaker}{retrieved}"


def _local(name: str) -> str:
    """A source's name as typed, with its suffix; of a path outside the source folder only the last part."""
    is_elsewhere = Path(name).is_absolute() or ".." in Path(name).parts or name.startswith(("./", ".\\"))
    return Path(name).name if is_elsewhere else name


def fold(path: Path | str) -> str:
    """Equal for names that some file systems take for one: in other case, or with accents as letters of their own."""
    return unicodedata.normalize("NFC", str(path)).casefold()


def find_result(wanted: Path, key: str) -> Path | None:
    """The finished result of the request `key` that goes by the name `wanted`, or by that name with a number."""
    stem, suffix = re.escape(fold(wanted.stem)), re.escape(fold(wanted.suffix))
    ours = re.compile(rf"{stem}(_\d+)?{suffix}")
    names = [name for name, found in read_journal(wanted.parent).items() if found == key and ours.fullmatch(fold(name))]
    return next((wanted.with_name(name) for name in names if wanted.with_name(name).is_file()), None)


@contextlib.contextmanager
def reserve(wanted: Path, key: str, keep: Collection[str] = (), overwrite: bool = False) -> Iterator[Path]:
    """The file that the result of the request `key` is to be written to, kept from other processes meanwhile.

    It is `wanted` where that is free, or the request's own older result; else `wanted` with a number behind it, so that
    no other request's result is replaced. `overwrite` takes `wanted` whatever it is, if it is not among the folded
    paths `keep`.
    """
    own = None if overwrite else find_result(wanted, key)
    names = (wanted if number == 1 else _numbered(wanted, number) for number in range(1, 1_000_000))
    for path in [own] if own else names:
        there = {fold(file.name): file.name for file in path.parent.iterdir()}.get(fold(path.name))
        path = path.with_name(there or path.name)
        if path.is_dir():
            raise AudioError(f"{path}: is a folder, and the result goes there. Rename or remove it.")
        if fold(path.resolve()) in keep or (there and not overwrite and path != own):
            continue
        with _claim(path) as is_ours:
            # Another process may have finished one of that name while this one looked.
            if not is_ours or (there is None and os.path.lexists(path)):
                continue
            if path != wanted and path != own:
                text = "%s is of another request and stays; this one goes to %s (--overwrite replaces it)"
                logger.info(text, wanted.as_posix(), path.name)
            yield path
            return
    raise AudioError(f"{wanted}: another process is making it. Wait for it.")


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}_{number}{path.suffix}")


@contextlib.contextmanager
def _claim(path: Path) -> Iterator[bool]:
    """Whether this process alone may write `path` inside; a claim of a process that has ended is void."""
    claim = path.with_name(f".{path.name}.claim")
    try:
        with contextlib.suppress(FileNotFoundError, ValueError):
            pid = int(claim.read_text("ascii"))
            if pid == os.getpid() or not is_alive(pid):
                claim.unlink(missing_ok=True)
        with claim.open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        yield False
        return
    try:
        yield True
    finally:
        claim.unlink(missing_ok=True)


def read_journal(folder: Path) -> dict[str, str]:
    """Which requests the results in a folder are of; a journal that is none is set aside, with a warning."""
    path = folder / JOURNAL
    if not os.path.lexists(path):
        return {}
    try:
        found = json.loads(path.read_text("utf-8")) if path.is_file() else None
        problem = "is not a list of results"
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        found, problem = None, "is not JSON" if isinstance(error, ValueError) else reason_of(error, path)
    if isinstance(found, dict):
        return {name: key for name, key in found.items() if isinstance(key, str)}
    text = "%s: %s; it is now %s. Results made before stay, whichever requests they are of"
    logger.warning(text, path.as_posix(), problem, set_aside(path).name)
    return {}


def note_result(path: Path, key: str) -> None:
    """Writes down which request a result is of."""
    # Read again: other processes write here too. Names that are no Unicode (from old archives) need escapes.
    entries = {name: other for name, other in read_journal(path.parent).items() if (path.parent / name).is_file()}
    try:
        write_text(path.parent / JOURNAL, json.dumps({**entries, path.name: key}, indent=2) + "\n")
    except OSError as error:
        text = "%s: cannot be written (%s), so that --resume will not know of %s"
        logger.warning(text, (path.parent / JOURNAL).as_posix(), reason_of(error, path.parent / JOURNAL), path.name)
