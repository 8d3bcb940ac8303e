"""Microphone to voice: converts what is sung or said while it is, for headphones, a stream or a game.

Reads the model and its config (logs/44k/), and the microphone; with --from a recording in its place.
Writes nothing but sound to the output; with --to a .wav or .flac of what would be heard, as long as the recording and
in step with it.
Enter turns conversion on and off, Ctrl-C ends. docs/realtime.md says how to choose the numbers.

Example: python realtime.py -m logs/44k/G_8000.pth -t 12
"""

import argparse
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import check_retriever
from modules.audio.io import probe
from modules.cli import configure_logging, next_step, run
from modules.errors import UsageError
from modules.files import check_output
from modules.inference import requests
from modules.inference.arguments import predictor_name, without_effect
from modules.inference.options import make_options
from modules.inference.requests import Problems
from modules.pretrained.needs import require_parts
from modules.realtime.arguments import as_conversion, realtime_arguments
from modules.realtime.devices import Connection, find_device, import_sounddevice, list_devices, look_again
from modules.realtime.options import RealtimeOptions

if TYPE_CHECKING:
    from modules.config.schema import Config
    from modules.realtime.engine import Engine

logger = logging.getLogger("realtime")


def main(argv: list[str] | None = None) -> int:
    """Converts until Ctrl-C, or a file to its end; returns the exit code."""
    args = make_arguments().parse_args(argv)
    configure_logging()
    if args.list_devices:
        print("\n".join(list_devices(import_sounddevice())) or "there are no devices")
        return 0
    conversion = as_conversion(args)
    for text in without_effect(conversion):
        logger.info(text)
    if args.source is not None and (args.device_in or args.device_out):
        logger.info("--device_in and --device_out have no effect with --from and --to")
    problems = Problems()
    options = check_flags(args, problems)
    wanted = read_voice(conversion, problems)
    problems.raise_all()
    engine, slowest = load_engine(conversion, options, wanted)
    return listen(args, engine, slowest) if args.source is None else convert(args, engine)


def make_arguments() -> argparse.ArgumentParser:
    """The flags, as --help shows them."""
    return realtime_arguments(__file__, __doc__)


def check_flags(args: argparse.Namespace, problems: Problems) -> RealtimeOptions | None:
    """How the stream is cut; notes what of files and devices cannot be."""
    options = problems.attempt(RealtimeOptions, args.block, args.crossfade, args.extra, args.gate)
    if args.source is not None and args.result is not None:
        problems.attempt(probe, args.source)
        problems.attempt(check_output, args.result, [args.source], args.overwrite, (".wav", ".flac"), "--to")
    elif args.source is not None or args.result is not None:
        problems.add(UsageError("--from and --to belong together: give both, or neither for the microphone"))
    elif args.paced:
        problems.add(UsageError("--paced needs --from and --to; a microphone is never quicker"))
    elif (sd := problems.attempt(import_sounddevice)) is not None:
        for name, is_input in ((args.device_in, True), (args.device_out, False)):
            problems.attempt(find_device, sd, name, is_input)
    return options


@dataclass(frozen=True)
class Wanted:
    """The voice that the flags name, verified as far as that goes without torch."""

    model: Path
    config: "Config"
    retrieval: Path | None  # cluster centres or an index
    speaker: str


def read_voice(args: argparse.Namespace, problems: Problems) -> Wanted | None:
    """The voice; notes what is wrong with it."""
    problems.attempt(make_options, args, speaker="", transpose=args.trans[0])
    problems.attempt(require_parts, predictor=predictor_name(args))
    problems.attempt(requests.check_device, args.device)
    model, config, _ = requests.read_models(args, problems)
    if (retrieval := requests.choose_retrieval(args, model)) is not None:
        problems.attempt(check_retriever, retrieval, args.feature_retrieval)
    if config is None:
        return None
    problems.attempt(require_parts, config.model.speech_encoder)
    speakers = problems.attempt(requests.choose_speakers, args.spk_list, list(config.spk))
    return Wanted(model, config, retrieval, speakers[0]) if speakers else None


def load_engine(args: argparse.Namespace, options: RealtimeOptions, wanted: Wanted) -> tuple["Engine", float]:
    """The engine with its networks warm, and how many seconds its slowest block then took."""
    from assemble import RetrievalRequest, load_converter, make_request
    from modules.realtime.engine import Engine, choose_threads

    path = wanted.retrieval
    retrieval = None if path is None else RetrievalRequest(path, args.feature_retrieval, (wanted.speaker,))
    pipeline = load_converter(make_request(args, wanted.model, wanted.config, None, retrieval)).pipeline
    engine = Engine(pipeline, make_options(args, wanted.speaker, args.trans[0]), options)
    slowest = choose_threads(engine)
    text = "blocks of %.0f ms, each about %.0f ms of work; the output lies %.0f ms behind within the engine"
    logger.info(text, 1000 * engine.block_seconds, 1000 * slowest, 1000 * engine.delay_seconds)
    if slowest > engine.block_seconds:
        logger.warning("blocks take longer than they last, so there will be gaps: give --block a larger number")
    return engine, slowest


def convert(args: argparse.Namespace, engine: "Engine") -> int:
    """A file through the engine."""
    from modules.realtime.files import convert_file

    print(convert_file(engine, args.source, args.result, args.paced, args.bypass))
    print(next_step("python compare.py", args.source.as_posix(), args.result.as_posix()))
    return 0


def listen(args: argparse.Namespace, engine: "Engine", slowest: float) -> int:
    """The microphone through the engine, until Ctrl-C."""
    from tqdm import tqdm

    from modules.realtime.keys import BypassKey
    from modules.realtime.live import LiveStream

    sd, opened = import_sounddevice(), []

    def connect(hear, play) -> Connection:
        if opened:
            look_again(sd)
        devices = find_device(sd, args.device_in, True), find_device(sd, args.device_out, False)
        connection = Connection(sd, devices, engine.sampling_rate, hear, play)
        opened.append(connection)
        names = (devices[0].name, connection.rate_in, devices[1].name, connection.rate_out)
        logger.info("from %s (%d Hz) to %s (%d Hz); Enter: bypass, Ctrl-C: end", *names)
        return connection

    stream = LiveStream(engine, connect, slowest, BypassKey(args.bypass, sys.stdin))
    try:
        with tqdm(bar_format="{desc}", leave=False) as bar:
            stream.run(bar)
    except KeyboardInterrupt:
        pass
    finally:
        print(stream)
    return 0


if __name__ == "__main__":
    run(main)
