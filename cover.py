"""Covers of songs by a trained voice: the lead is converted, and goes back into the music.

Reads the model and its config (logs/44k/), songs with their music (names under raw/, paths, folders, patterns), and a
model that takes them apart (pretrain/separation/); or with --vocals and --music the stems that there are already.
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

from inference_main import Wanted, make_chooser, print_json, read_request, voice_request
from modules.audio.io import probe
from modules.cli import configure_logging, next_step, run
from modules.errors import FAILURES, UsageError, is_out_of_memory, reason_of
from modules.files import check_inputs
from modules.inference.arguments import (
    AUTO,
    AUTO_OCTAVE,
    conversion_arguments,
    kind_of,
    predictor_name,
    without_effect,
)
from modules.inference.melody import melody_options
from modules.inference.options import make_options, outside
from modules.inference.results import RESULTS, cover_folder, cover_name, result_name
from modules.separation.models import find_model, require_networks

if TYPE_CHECKING:
    from modules.inference.auto_transpose import KeyChooser
    from modules.inference.cover import Cover, Stems
    from modules.inference.inputs import Named
    from modules.separation.separator import Separator

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
    separators = check(args)
    for text in without_effect(args):
        logger.info(text)
    wanted = read_request(args)  # all that can be known beforehand, before torch is imported
    if not wanted.sources:
        return 1
    warn_of_keys(wanted)
    try:
        finished, n_failed = make_covers(args, wanted, separators)
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
    model = "model that takes the vocals out of the music: a file, or a name of pretrain/download.py "
    add("--separator", metavar="FILE", help=model + "(default: the best one in pretrain/separation)")
    settings = "settings of a RoFormer given with --separator (default: the yaml beside its file)"
    add("--separator_config", metavar="FILE", help=settings)
    lead = "model that takes the lead out of the vocals; the backing vocals stay as they are"
    add("--lead_model", metavar="FILE", help=lead)
    echo = "model that takes echo and reverb off what is converted; they do not come back"
    add("--echo_model", metavar="FILE", help=echo)
    add("--vocals", metavar="FILE", help="what to convert, where it is apart already: no separation; with --music")
    add("--music", metavar="FILE", help="the song without --vocals; the song itself need not be given then")
    gain = "loudness of the voice in dB: 0 as loud as the lead was, 2 a little in front"
    add("--vocal_gain", type=float, default=0.0, metavar="DB", help=gain)
    return parser


def check(args: argparse.Namespace) -> list[Path | None]:
    """Refuses what only covers can have wrong, and puts what is left out in its place.

    Returns:
        The models for vocals, lead and echo, of which the last two may be None; empty where stems are given.
    """
    args.trans = [AUTO_OCTAVE if key == AUTO else key for key in args.trans]
    if problem := outside("", "vocal_gain", args.vocal_gain):
        raise UsageError(problem)
    if args.vocals or args.music:
        check_stems(args)
        return []
    if not args.clean_names:
        example = "python cover.py song.mp3 -s alto"
        raise UsageError(f"name a song in front of the flags ({example}), or give --vocals and --music")
    require_networks()
    if args.separator_config:
        check_inputs(("--separator_config", Path(args.separator_config)))
    others = [(args.lead_model, "--lead_model"), (args.echo_model, "--echo_model")]
    return [find_model(args.separator, "--separator"), *(find_model(*pair) if pair[0] else None for pair in others)]


def check_stems(args: argparse.Namespace) -> None:
    """Refuses stems that cannot be used; without a song, they are one."""
    if not (args.vocals and args.music):
        given, other = ("--vocals", "--music") if args.vocals else ("--music", "--vocals")
        raise UsageError(f"{given} goes together with {other}; give both, or neither to have the song separated")
    for flag in ("separator", "separator_config", "lead_model", "echo_model"):
        if getattr(args, flag):
            raise UsageError(f"--{flag} is for songs that are separated here; --vocals is converted as it is")
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


def make_covers(
    args: argparse.Namespace, wanted: Wanted, models: list[Path | None]
) -> tuple[list[tuple[Path, Path]], int]:
    """Leads with their conversions, and how many songs failed; a song that is alone raises its error."""
    from assemble import load_converter
    from modules.inference.batch import Job
    from modules.inference.cover import make_cover

    converter = load_converter(voice_request(args, wanted))
    chooser = make_chooser(args, wanted, converter) if AUTO_OCTAVE in wanted.keys else None
    separators = load_separators(args, models)
    finished, n_failed = [], 0
    for song in wanted.sources:
        try:
            for cover in plan_covers(song, find_stems(song, args, separators), args, wanted, chooser):
                path, converted, report = make_cover(cover, converter, args.overwrite)
                finished.append((cover.stems.lead, converted))
                if args.json:
                    print_json(Job(song.path, path, cover.options), report)
        except Exception as error:
            is_known = isinstance(error, FAILURES) or is_out_of_memory(error)
            if not is_known or len(wanted.sources) == 1:
                raise
            logger.error("%s: %s", song.path, reason_of(error, song.path))
            n_failed += 1
    return finished, n_failed


def load_separators(args: argparse.Namespace, models: list[Path | None]) -> list["Separator | None"]:
    """The networks that take songs apart."""
    from modules.device import choose_device
    from modules.separation.separator import load_separator

    configs = (args.separator_config and Path(args.separator_config), None, None)
    device = choose_device(args.device)
    return [model and load_separator(model, device, config) for model, config in zip(models, configs)]


def find_stems(song: "Named", args: argparse.Namespace, separators: list["Separator | None"]) -> "Stems":
    """The stems of a song: those that are given, or what the separators make of it, as far as it is not there."""
    from modules.inference.cover import Stems
    from modules.separation.files import find_folder, plan, separate_file

    folder = RESULTS / cover_folder(song.label)
    if not separators:
        vocals, music = Path(args.vocals), Path(args.music)
        return Stems(vocals, (music,), music if song.path == vocals.resolve() else song.path, folder)
    folder, _ = find_folder(folder, song.path, plan(*separators))
    paths = separate_file(song.path, folder, *separators)
    lead = next(paths[name] for name in ("dry", "lead", "vocals") if name in paths)
    music = tuple(paths[name] for name in ("music", "backing") if name in paths)
    return Stems(lead, music, paths["music"], folder)


def plan_covers(
    song: "Named", stems: "Stems", args: argparse.Namespace, wanted: Wanted, chooser: "KeyChooser | None"
) -> list["Cover"]:
    """A song in every voice."""
    from modules.inference.cover import Cover

    covers, melody = [], melody_options(args).for_song(song.label, song.path)
    for speaker in wanted.speakers:
        key = wanted.keys[song.position]
        if isinstance(key, str):
            key = chooser.choose(stems.lead, speaker, key, melody.f0_in)
        options = replace(make_options(args, speaker, key, wanted.mix), melody=melody)
        lead = result_name(stems.lead.name, replace(options, output_format="flac"), predictor_name(args), kind_of(args))
        result = RESULTS / cover_name(song.label, options)
        covers.append(Cover(song.path, stems, stems.folder / lead, result, options, args.vocal_gain))
    return covers


if __name__ == "__main__":
    run(main)
