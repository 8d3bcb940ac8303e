"""Covers of songs by a trained voice: the lead is converted, and goes back into the music.

Reads the model and its config (logs/44k/), and songs with their music: names under raw/, paths, folders, patterns; or
with --vocals and --music the stems that another program has made.
Writes results/SONG_KEYkey_SPEAKER_cover.FORMAT, of the song's rate, channels and exact length, the voice as loud and
where in the stereo image as the lead was; and results/SONG_cover/ with all that is made on the way. What is there
already is not made again: the same command goes on where it was stopped, another -t begins with the conversion.

Example: python cover.py song.mp3 -m logs/44k/G_8000.pth -c logs/44k/config.json -s alto -t auto
"""

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from inference_main import Wanted, make_chooser, make_options, print_json, read_request, voice_request
from modules.audio.io import probe
from modules.cli import configure_logging, next_step, run
from modules.errors import FAILURES, UsageError, reason_of
from modules.files import check_inputs
from modules.inference.arguments import (
    AUTO,
    AUTO_OCTAVE,
    conversion_arguments,
    kind_of,
    predictor_name,
    without_effect,
)
from modules.inference.options import outside
from modules.inference.results import RESULTS, cover_names, result_name

if TYPE_CHECKING:
    from modules.inference.auto_transpose import KeyChooser
    from modules.inference.cover import Cover, Stems
    from modules.inference.inputs import Named

logger = logging.getLogger("cover")

# What suits songs better than so-vits-svc's defaults.
DEFAULTS = {"f0_predictor": "fcpe", "loudness_envelope_adjustment": 0.0}


def main(argv: list[str] | None = None) -> int:
    """Makes a cover of every song by every speaker; returns 0, or 1 where some of several failed.

    Raises:
        UserError: the request cannot be fulfilled at all, or its only song cannot.
    """
    args = make_arguments().parse_args(argv)
    configure_logging()
    check(args)
    for text in without_effect(args):
        logger.info(text)
    wanted = read_request(args)  # all that can be known beforehand, before torch is imported
    if not wanted.sources:
        return 1
    warn_of_keys(wanted)
    try:
        finished, n_failed = make_covers(args, wanted)
    except KeyboardInterrupt:
        logger.warning("stopped; the same command goes on with what is left")
        raise
    if n_failed:
        logger.error("%d of %d songs failed; see the messages above", n_failed, len(wanted.sources))
    if finished and not args.json:
        print(next_step("python compare.py", *(path.as_posix() for path in finished[0])))
    return 0 if wanted.complete and not n_failed else 1


def make_arguments() -> argparse.ArgumentParser:
    """The flags, as --help and the web page show them."""
    parser = conversion_arguments(__file__, __doc__, for_covers=True)
    parser.set_defaults(**DEFAULTS)
    add = parser.add_argument_group("Stems and mix").add_argument
    add("--vocals", metavar="FILE", help="the song's voice alone, where there is one already; with --music")
    add("--music", metavar="FILE", help="the song without its voice; the song itself need not be given then")
    gain = "loudness of the voice in dB: 0 as loud as the lead was, 2 a little in front"
    add("--vocal_gain", type=float, default=0.0, metavar="DB", help=gain)
    return parser


def check(args: argparse.Namespace) -> None:
    """Refuses what only covers can have wrong, and puts what is left out in its place."""
    args.trans = [AUTO_OCTAVE if key == AUTO else key for key in args.trans]
    if problem := outside("", "vocal_gain", args.vocal_gain):
        raise UsageError(problem)
    if not (args.vocals or args.music):
        if not args.clean_names:
            example = "python cover.py song.mp3 -s alto"
            raise UsageError(f"name a song in front of the flags ({example}), or give --vocals and --music")
        return
    if not (args.vocals and args.music):
        given, other = ("--vocals", "--music") if args.vocals else ("--music", "--vocals")
        raise UsageError(f"{given} goes together with {other}; give both, or neither to have the song separated")
    if len(args.clean_names) > 1:
        raise UsageError(f"--vocals and --music are of one song, and {len(args.clean_names)} are named")
    check_inputs(("--vocals", Path(args.vocals)), ("--music", Path(args.music)))
    for path in (args.vocals, args.music):
        probe(path)
    args.clean_names = args.clean_names or [str(Path(args.vocals).resolve())]


def warn_of_keys(wanted: Wanted) -> None:
    """Says which transpositions leave the music's key."""
    for key in dict.fromkeys(key for key in wanted.keys if isinstance(key, int) and key % 12):
        logger.warning(
            "-t %d: the voice is transposed and the music is not, so they are in different keys. Use whole octaves "
            "(-t -12, 0 or 12), or -t auto",
            key,
        )


def make_covers(args: argparse.Namespace, wanted: Wanted) -> tuple[list[tuple[Path, Path]], int]:
    """Leads with their conversions, and how many songs failed; a song that is alone raises its error."""
    import torch

    from assemble import load_converter
    from modules.inference.batch import Job
    from modules.inference.cover import make_cover

    converter = load_converter(voice_request(args, wanted))
    chooser = make_chooser(args, wanted, converter) if AUTO_OCTAVE in wanted.keys else None
    finished, n_failed = [], 0
    for song in wanted.sources:
        try:
            for cover in plan_covers(song, find_stems(song, args), args, wanted, chooser):
                path, converted, report = make_cover(cover, converter, args.overwrite)
                finished.append((cover.stems.lead, converted))
                if args.json:
                    print_json(Job(song.path, path, cover.options), report)
        except (*FAILURES, torch.OutOfMemoryError) as error:
            if len(wanted.sources) == 1:
                raise
            logger.error("%s: %s", song.path, reason_of(error, song.path))
            n_failed += 1
    return finished, n_failed


def find_stems(song: "Named", args: argparse.Namespace) -> "Stems":
    """The stems of a song: those that are given, or what separation makes."""
    from modules.inference.cover import Stems

    if args.vocals:
        vocals, music = Path(args.vocals), Path(args.music)
        return Stems(vocals, (music,), music if song.path == vocals.resolve() else song.path)
    raise UsageError("not yet")


def plan_covers(
    song: "Named", stems: "Stems", args: argparse.Namespace, wanted: Wanted, chooser: "KeyChooser | None"
) -> list["Cover"]:
    """A song in every voice."""
    from modules.inference.cover import Cover

    covers = []
    for speaker in wanted.speakers:
        key = wanted.keys[song.position]
        if isinstance(key, str):
            key = chooser.choose(stems.lead, speaker, key)
        options = make_options(args, speaker, key, wanted.mix)
        name, folder = cover_names(song.label, options)
        lead = result_name(stems.lead.name, replace(options, output_format="flac"), predictor_name(args), kind_of(args))
        covers.append(Cover(song.path, stems, RESULTS / folder / lead, RESULTS / name, options, args.vocal_gain))
    return covers


if __name__ == "__main__":
    run(main)
