"""Takes the vocals out of music, so that they can be converted; on request also the lead, and the voice without echo.

Reads songs (any format, rate and number of channels), or folders of them.
Writes OUT_DIR/SONG/vocals.flac and music.flac, which add up to the song exactly: 24 bits, with its rate and length.
With --lead_model also lead.flac and backing.flac of the vocals, with --echo_model dry.flac: the lead, or else the
vocals, without echo and reverb. What is there already is not made again; a stopped run goes on where it was.

Example: python separate.py song.mp3
"""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from modules.cli import configure_logging, make_parser, next_step, run
from modules.errors import FAILURES, UsageError, is_out_of_memory, reason_of
from modules.text import counted

if TYPE_CHECKING:
    from modules.separation.separator import Separator

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Separates the songs; returns 0, or 1 when some of several failed."""
    arguments = make_arguments().parse_args(argv)
    from modules.separation.models import find_model, require_networks

    songs = _find_songs(arguments.inputs, arguments.out_dir)
    given = {"-m/--model": arguments.model, "--lead_model": arguments.lead_model, "--echo_model": arguments.echo_model}
    models = [find_model(name, flag) if name or flag == "-m/--model" else None for flag, name in given.items()]
    if arguments.config is not None and not arguments.config.is_file():
        raise UsageError(f"--config {arguments.config}: no such file")
    require_networks()
    configure_logging()

    from modules.device import choose_device
    from modules.separation.separator import load_separator

    device, configs = choose_device(arguments.device), (arguments.config, None, None)
    separators = [path and load_separator(path, device, config) for path, config in zip(models, configs, strict=True)]
    return _separate_all(songs, separators, arguments)


def make_arguments() -> argparse.ArgumentParser:
    """The flags, as --help shows them."""
    parser = make_parser(__file__, __doc__)
    add = parser.add_argument
    add("inputs", nargs="+", type=Path, metavar="SONG", help="a song, or a folder: all audio below it")
    model = "file of a model (Demucs .th or RoFormer .ckpt), or a name of pretrain/download.py "
    model += "(default: the best one in pretrain/separation)"
    add("-m", "--model", metavar="FILE", help=model)
    add("--config", type=Path, metavar="YAML", help="settings of a RoFormer (default: the yaml beside its file)")
    add("--lead_model", metavar="FILE", help="model that takes the lead out of the vocals; its yaml lies beside it")
    add("--echo_model", metavar="FILE", help="model that takes echo and reverb away; its yaml lies beside it")
    add("--out_dir", type=Path, default=Path("separated"), help="folder for the results, one folder for each song")
    add("-d", "--device", metavar="NAME", help="cpu, cuda, cuda:1 or mps (default: the best there is)")
    add("--overwrite", action="store_true", help="make everything again, and replace files of other songs and models")
    return parser


def _find_songs(inputs: list[Path], out_dir: Path) -> dict[Path, Path]:
    """Each song and the folder for its parts; those of folders are mirrored below `out_dir`."""
    from modules.audio.io import AUDIO_SUFFIXES

    songs, seen, problems = {}, set(), []
    for given in inputs:
        if given.is_dir():
            below = sorted(path for path in given.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
            found = [path for path in below if path.is_file() and not _is_left_out(path, given, out_dir)]
            if not found:
                problems.append(f"{given}: holds no audio")
        elif given.is_file():
            found = [given]
        else:
            found = []
            problems.append(f"{given}: no such file or folder")
        for path in found:
            if path.resolve() not in seen:
                seen.add(path.resolve())
                parent = path.relative_to(given).parent if given.is_dir() else Path()
                songs[path] = out_dir / parent / (path.stem.rstrip(". ") or "_")
    if problems:
        raise UsageError("; ".join(problems))
    return songs


def _is_left_out(path: Path, folder: Path, out_dir: Path) -> bool:
    """Hidden files, and results of before."""
    is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return is_hidden or path.resolve().is_relative_to(out_dir.resolve())


def _separate_all(songs: dict[Path, Path], separators: list["Separator | None"], arguments: argparse.Namespace) -> int:
    """Separates what is not yet, and says what became of all; returns the exit code."""
    from modules.separation.files import find_folder, plan, separate_file

    steps = plan(*separators)
    n_unchanged, n_failed, used, paths = 0, 0, set(), {}
    for source, wanted in songs.items():
        try:
            folder, is_done = find_folder(wanted, source, steps, arguments.overwrite, used)
            used.add(folder)
            if is_done and not arguments.overwrite:
                logger.info("%s: already separated, in %s", source, folder)
                n_unchanged += 1
            paths = separate_file(source, folder, *separators, overwrite=arguments.overwrite)
        except (*FAILURES, RuntimeError) as error:
            is_known = isinstance(error, FAILURES) or is_out_of_memory(error)
            if not is_known or len(songs) == 1:
                raise
            logger.warning("%s: %s", source, reason_of(error, source))
            n_failed += 1
    n_separated = len(songs) - n_unchanged - n_failed
    print(f"{counted(n_separated, 'song')} separated, {n_unchanged} unchanged, {n_failed} failed")
    if paths:
        voice = next(paths[name] for name in ("dry", "lead", "vocals") if name in paths)
        print(next_step("python inference_main.py", "-n", voice.as_posix()))
    return 1 if n_failed else 0


if __name__ == "__main__":
    run(main)
