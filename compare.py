"""Measures how well a converted song follows its source, and draws both (optional last step of the recipe).

Reads two audio files of any format and rate. Writes a PNG (waveform, mel spectrum, pitch curves) and prints how the two
melodies agree: correlation of log f0, error in cents, transposition.

Example: python compare.py raw/song.wav results/song.wav_0key_alto_sovits_pm.flac
"""

import argparse
import logging
from pathlib import Path

from modules.cli import configure_logging, make_parser, run

logger = logging.getLogger("compare")

LENGTHS_DIFFER = 0.1  # seconds: a result is as long as its source, but for the padding of mp3


def main(argv: list[str] | None = None) -> int:
    """Prints the figures and writes the picture; returns the exit code."""
    arguments = make_arguments().parse_args(argv)
    source, result = arguments.source, arguments.result
    output = arguments.output or result.with_suffix(".png")

    from modules.audio import io
    from modules.files import check_output
    from modules.pretrained.needs import require_parts

    configure_logging()
    require_parts(predictor=arguments.f0_predictor)
    for path in (source, result):
        io.probe(path)

    # What follows imports torch; what is wrong should not wait for that.
    from modules.config.audio import AudioSpec
    from modules.f0.base import build_predictor
    from modules.metrics.melody import draw_comparison, is_own_picture, match_melody

    is_ours = output.is_file() and is_own_picture(output)
    check_output(output, [source, result], arguments.overwrite or is_ours, (".png",))
    audio = AudioSpec(44100, 2048, 512, 2048, 80, 0.0, 22050.0)
    predictor = build_predictor(arguments.f0_predictor, audio)
    names = {f"source: {source.name}": source, f"result: {result.name}": result}
    sounds = {name: io.load(path, audio.sampling_rate) for name, path in names.items()}
    shorter, longer = sorted(len(wav) / audio.sampling_rate for wav in sounds.values())
    if longer - shorter > LENGTHS_DIFFER:
        text = "%s and %s: one lasts %.1f s, the other %.1f s; only the first %.1f s are compared. Are they a pair?"
        logger.warning(text, source, result, longer, shorter, shorter)
    curves = {name: predictor.predict(wav) for name, wav in sounds.items()}
    match = match_melody(*curves.values(), audio.frame_rate)
    draw_comparison(output, sounds, curves, audio, f"{match} ({arguments.f0_predictor})")
    print(match)
    print(f"Picture: {output}")
    return 0


def make_arguments() -> argparse.ArgumentParser:
    """The flags, as --help and the web page show them."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("source", type=Path, help="the song before conversion")
    parser.add_argument("result", type=Path, help="the song after conversion")
    parser.add_argument("-o", "--output", type=Path, help="picture to write (default: the result's name with .png)")
    parser.add_argument("-f0p", "--f0_predictor", default="fcpe", help="pitch predictor used for both")
    parser.add_argument("--overwrite", action="store_true", help="replace a picture that compare.py did not make")
    return parser


if __name__ == "__main__":
    run(main)
