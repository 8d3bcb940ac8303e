"""Chooses settings by ear: sings a song with every combination of them, for a page on which they are compared blind.

Reads songs and voices as inference_main.py, with its flags, most of which take several values here: -m A B, -t 0 -12,
-f0p fcpe pm, -cr 0 0.5, -shd off on, ... What depends on the song alone (F0, content units) is computed once.
Writes results/grid/NAME/: cells/ with a sound for each combination, what inference_main.py makes with the same flags;
index.html, one file that loads nothing, in which they are equally loud, in random order and without names until you
ask for them; and grid.json, so that the same command makes only what is missing.
With --votes it reads the files that the page downloads, one of each listener, and prints what they say.

Example: python grid.py -m logs/44k/G_8000.pth logs/44k/G_16000.pth -n song.wav -s alto -t 0 -12 --seconds 20
Example: python grid.py --votes results/grid/song/votes.csv
"""

import argparse
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import inference_main
from inference_main import Wanted, make_jobs, read_request, voice_request
from modules.audio.io import probe
from modules.cli import configure_logging, run
from modules.errors import FAILURES, UsageError, UserError, reason_of
from modules.files import lock_folder, make_folder, remove_leftovers, write_text
from modules.grid.flags import HELD, as_text, combinations, find_models, grid_arguments, varied
from modules.grid.sheet import CELLS, FOLDER, PAGE, SONGS, Cell, Sheet, read_sheet
from modules.grid.songs import excerpt
from modules.inference import requests
from modules.inference.arguments import is_mixed, without_effect
from modules.inference.inputs import RAW, find_sources
from modules.inference.options import make_options
from modules.text import counted, printable, quote
from modules.webui import forms
from modules.webui.workspace import safe_name

if TYPE_CHECKING:
    from assemble import VoiceRequest
    from modules.grid.scores import CellScorer
    from modules.inference.converter import Progress, VoiceConverter
    from modules.inference.inputs import Named

logger = logging.getLogger("grid")

MOST_CELLS = 24  # without --max_cells
SCRIPT = "inference_main.py"
# Computing time over duration, for a word beforehand about how long it takes.
_FACTORS = {"cpu": 0.6, "mps": 0.2, "cuda": 0.05}


@dataclass(frozen=True)
class Planned:
    """A cell that is to be made."""

    key: str  # names it; equal for requests that give the same sound
    song: str  # its name
    source: Path  # the song, or the excerpt of it
    seconds: float
    settings: dict[str, str]  # flag -> value, of those that differ
    command: str  # that makes it of the whole song
    args: argparse.Namespace  # of inference_main.py
    wanted: Wanted
    request: "VoiceRequest"
    loading: tuple  # equal for cells that one converter makes

    def __str__(self) -> str:
        return " ".join([self.song, *(f"{flag} {value}" for flag, value in self.settings.items())])


def main(argv: list[str] | None = None) -> int:
    """Makes the cells and the page, or summarises votes; returns 0, or 1 where some cells failed."""
    args = make_arguments().parse_args(argv)
    configure_logging()
    if args.votes:
        from modules.grid.votes import summarise

        print(summarise(args.votes))
        return 0
    check(args)
    sources, complete = find_sources(args.clean_names)
    if not sources:
        return 1
    if len(sources) == 1:  # of several, those that are no audio are reported
        probe(sources[0].path)
    folder = FOLDER / safe_name(args.name or Path(sources[0].label).stem)
    make_folder(folder)
    with lock_folder(folder):
        remove_leftovers(folder)
        sheet = read_sheet(folder)
        if (folder / PAGE).exists() and not sheet.path.exists() and not args.overwrite:
            raise UsageError(f"{folder / PAGE}: is no page of grid.py. Use another --name, or add --overwrite")
        cells, n_wrong = plan(args, sources, folder)
        refuse_replacing(args, sheet, cells)
        try:
            n_failed = make_cells(cells, sheet)
        except KeyboardInterrupt:
            logger.warning("stopped; the same command goes on with the cells that are left")
            raise
        write_page(folder.name, sheet, cells)
    n_failed += n_wrong
    if n_failed:
        logger.error("%s failed; see the messages above", counted(n_failed, "cell"))
    print(f"Page: {(folder / PAGE).as_posix()} ({(folder / PAGE).stat().st_size / 1e6:.1f} MB); open it in a browser")
    return 0 if complete and not n_failed else 1


def make_arguments() -> argparse.ArgumentParser:
    """The flags, as --help and the web page show them."""
    parser = grid_arguments(__file__, __doc__)
    add = parser.add_argument_group("Grid").add_argument
    add("--name", help=f"the grid's folder is {FOLDER.as_posix()}/NAME (default: the first song's name)")
    add("--start", type=float, default=0.0, metavar="S", help="second of each song at which the grid begins")
    add("--seconds", type=float, metavar="S", help="of each song, from --start on (default: all of it)")
    most = "most cells that are made; more take a higher number here"
    add("--max_cells", type=int, default=MOST_CELLS, metavar="N", help=most)
    overwrite = "let the page show this grid, though it shows cells of another one that this has not"
    add("--overwrite", action="store_true", help=overwrite)
    votes = "votes.csv of one listener or more: print what they say, and make nothing"
    add("--votes", type=Path, nargs="+", metavar="FILE", help=votes)
    return parser


def check(args: argparse.Namespace) -> None:
    """Refuses wrong values of what only a grid has, and puts files in the place of defaults and patterns."""
    if not (math.isfinite(args.start) and args.start >= 0):
        raise UsageError(f"--start is {args.start:g}; it must be 0 or more")
    if args.seconds is not None and not (math.isfinite(args.seconds) and args.seconds >= 1):
        raise UsageError(f"--seconds is {args.seconds:g}; it must be 1 or more")
    if args.max_cells < 1:
        raise UsageError(f"--max_cells is {args.max_cells}; it must be 1 or more")
    args.model_path = find_models(args.model_path)
    if args.only_diffusion not in ([], ["on"]) and args.model_path is None:
        args.model_path = [requests.choose_model(None).as_posix()]
    if is_mixed(args) and len(args.spk_list or []) > 1:
        raise UsageError("-s has several values, and a mix of voices has no other speakers; leave -s out")
    if args.config_path is None and args.model_path is not None:
        args.config_path = [requests.choose_config(None, model).as_posix() for model in args.model_path]


def plan(args: argparse.Namespace, sources: list["Named"], folder: Path) -> tuple[list[Planned], int]:
    """The cells, each once, and how many combinations cannot be made: these are reported, and raised if all are so."""
    combined = combinations(
        args, [name for name in forms.actions(inference_main.make_arguments()) if hasattr(args, name)]
    )
    number = len(combined) * len(sources)
    if number > args.max_cells:
        told = f"{counted(len(combined), 'combination')} of settings, {counted(len(sources), 'song')}"
        remedy = f"leave some out, or say --max_cells {number}"
        raise UsageError(f"{number} cells ({told}) are more than {args.max_cells}: {remedy}")
    found: dict[str, Planned] = {}
    errors: list[str] = []
    for source in sources:
        for values in combined:
            try:
                path = excerpt(source.path, folder / SONGS, args.start, args.seconds)
                cell = plan_cell(source, path, values, combined)
            except FAILURES as error:
                errors.append(reason_of(error))
                continue
            if (same := found.setdefault(cell.key, cell)) is not cell:
                logger.info("%s gives the same as %s, and is left out", cell, same)
    if not found:
        raise UsageError(" ".join(dict.fromkeys(errors)))
    for text in dict.fromkeys(errors):
        logger.error("%s", text)
    idle = [set(without_effect(cell.args)) for cell in found.values()]
    for text in sorted(set.intersection(*idle)):
        logger.info("%s", text)
    return list(found.values()), len(errors)


def plan_cell(source: "Named", path: Path, values: dict[str, Any], combined: list[dict[str, Any]]) -> Planned:
    """One song (or `path`, an excerpt of it) with one of the combinations, verified as inference_main.py does."""
    parser = inference_main.make_arguments()
    known = forms.actions(parser)
    given = {
        name: [value] if known[name].nargs == "+" and value is not None else value for name, value in values.items()
    }
    given = {**given, **{name: values[name] for name in HELD if name in values}}
    typed = source.path.relative_to(RAW) if source.path.is_relative_to(RAW) else source.path
    _, *words = forms.command(SCRIPT, parser, {**given, "clean_names": [typed.as_posix()]})
    _, *made_of = forms.command(SCRIPT, parser, {**given, "clean_names": [path.as_posix()]})
    args, settings = parser.parse_args(made_of), {}
    for name in varied(combined):
        flag = min(known[name].option_strings, key=len)
        settings[flag] = as_text(name, values[name], [other[name] for other in combined])
    wanted = read_request(args)

    from assemble import request_identity  # torch: what is wrong with a request has been said by now
    from modules.inference.converter import request_key

    request, (key,) = voice_request(args, wanted), wanted.keys
    identity, is_auto = request_identity(request), isinstance(key, str)
    options = make_options(args, wanted.speakers[0], 0 if is_auto else key, wanted.mix)
    name = request_key(path, options, f"{identity} {key if is_auto else ''}")[:16]
    command = " ".join(["python", SCRIPT, *map(quote, words)])
    loading = identity, request.retrieval and request.retrieval.speakers
    song, seconds = printable(source.label), probe(path).seconds
    return Planned(name, song, path, seconds, settings, command, args, wanted, request, loading)


def refuse_replacing(args: argparse.Namespace, sheet: Sheet, cells: list[Planned]) -> None:
    """Refuses to take from the page what is on it."""
    lost = set(sheet.shown) - {cell.key for cell in cells}
    if lost and not args.overwrite:
        raise UsageError(
            f"{sheet.path.parent.as_posix()}: its page shows {counted(len(lost), 'cell')} that this grid has not. "
            "Use another --name, or add --overwrite (finished cells stay)"
        )


def make_cells(cells: list[Planned], sheet: Sheet) -> int:
    """Makes what is not there, and notes all in the sheet; returns how many failed, which are reported."""
    from modules.device import choose_device
    from modules.grid.page import MOST_SECONDS, page_bytes

    shown = sum(cell.seconds for cell in cells)
    if shown > MOST_SECONDS:
        raise UsageError(f"{shown / 60:.0f} minutes of sound are too much for a page; take parts with --seconds 30")
    left = [cell for cell in cells if not sheet.has(cell.key)]
    for cell in cells:
        if sheet.has(cell.key):  # what differs, and how the song is called, may be other than it was
            note(cell, sheet, sheet.cells[cell.key].settings.get("-t"), sheet.cells[cell.key].scores)
    device = choose_device(cells[0].args.device)
    seconds = sum(cell.seconds for cell in left)
    text = "%s, %d of them to be made: %.0f s of sound, about %s; the page will have about %.0f MB"
    minutes = seconds * _FACTORS[device.type] / 60
    about = f"{math.ceil(minutes)} min" if minutes > 1 else "a minute"
    logger.info(
        text, counted(len(cells), "cell"), len(left), seconds, about if left else "no time", page_bytes(shown) / 1e6
    )
    n_failed = 0
    if left:
        for cell, error in sing(left, sheet, str(device)):
            logger.error("%s: %s", cell, reason_of(error))
            n_failed += 1
    if n_failed == len(cells):
        raise UsageError("no cell could be made; see the reasons above")
    return n_failed


def sing(cells: list[Planned], sheet: Sheet, device: str) -> Iterator[tuple[Planned, BaseException]]:
    """Makes cells, those of one voice after another, and gives those that failed, with their errors."""
    import torch
    from tqdm import tqdm

    from assemble import load_converter
    from modules.grid.scores import load_scorer
    from modules.inference.features import FeatureCache

    failures, cache = (*FAILURES, torch.OutOfMemoryError), FeatureCache()
    scorer = load_scorer(device, cache.predictor)
    groups: dict[tuple, list[Planned]] = {}
    for cell in cells:
        groups.setdefault(cell.loading, []).append(cell)
    total = round(sum(cell.seconds for cell in cells))
    with tqdm(total=total, unit="s", desc="grid", dynamic_ncols=True) as bar:
        done = 0.0
        for group in groups.values():
            converter = None  # the one before is given back before the next is loaded
            for cell in group:
                try:
                    if converter is None:
                        converter = load_converter(cell.request, cache.encoder, cache.predictor)
                    make_cell(cell, converter, scorer, sheet, partial(_advance, bar, done))
                except failures as error:
                    yield cell, error
                done += cell.seconds
                _advance(bar, done, 0.0, 0.0)


def _advance(bar: Any, before: float, seconds: float, _: float) -> None:
    bar.update(max(0, round(before + seconds) - bar.n))


def make_cell(
    cell: Planned, converter: "VoiceConverter", scorer: "CellScorer", sheet: Sheet, on_progress: "Progress"
) -> None:
    """Converts, measures, and notes it in the sheet."""
    ((job,), _) = make_jobs(cell.args, cell.wanted, converter)
    path = sheet.path.parent / _file_of(cell)
    make_folder(path.parent)
    converter.convert(job.source, path, job.options, progress=False, resume=True, on_progress=on_progress)
    try:
        scores = scorer.score(cell.source, path, job.options.speaker)
    except UserError as error:
        logger.warning("%s: is not measured: %s", path.as_posix(), reason_of(error, path))
        scores = {}
    (key,) = cell.wanted.keys
    note(cell, sheet, f"{key} ({job.options.transpose:+g})" if isinstance(key, str) else None, scores)


def note(cell: Planned, sheet: Sheet, key: str | None, scores: dict[str, float | None]) -> None:
    """Puts a finished cell into the sheet; `key` is the transposition that was chosen for `-t auto`."""
    is_auto = isinstance(cell.wanted.keys[0], str)
    settings = cell.settings | ({"-t": key} if is_auto and key else {})
    sheet.cells[cell.key] = Cell(cell.song, settings, cell.command, _file_of(cell), cell.seconds, scores)
    sheet.save()


def _file_of(cell: Planned) -> str:
    return f"{CELLS}/{cell.key}.{cell.args.wav_format}"


def write_page(name: str, sheet: Sheet, cells: list[Planned]) -> None:
    """Writes the page of the cells that are there."""
    from modules.grid.page import build_page

    sheet.shown = [cell.key for cell in cells if sheet.has(cell.key)]
    write_text(sheet.path.parent / PAGE, build_page(name, sheet, {cell.song: cell.source for cell in cells}))
    sheet.save()


if __name__ == "__main__":
    run(main)
