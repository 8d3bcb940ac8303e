"""Measures how well a converted song follows its source, and draws both (optional last step of the recipe).

Reads two audio files of any format and rate. Writes a PNG (waveform, mel spectrum, pitch curves) and prints how the two
melodies agree: correlation of log f0, error in cents, transposition.

Example: python compare.py raw/song.wav results/song.wav_0key_alto_sovits_pm.flac
"""

from pathlib import Path

from modules.cli import configure_logging, make_parser, run


def main(argv: list[str] | None = None) -> int:
    """Prints the figures and writes the picture; returns the exit code."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("source", type=Path, help="the song before conversion")
    parser.add_argument("result", type=Path, help="the song after conversion")
    parser.add_argument("-o", "--output", type=Path, help="picture to write (default: the result's name with .png)")
    parser.add_argument("-f0p", "--f0_predictor", default="fcpe", help="pitch predictor used for both")
    arguments = parser.parse_args(argv)

    from modules.audio import io
    from modules.config.audio import AudioSpec
    from modules.f0.base import build_predictor
    from modules.metrics.melody import draw_comparison, match_melody

    configure_logging()
    audio = AudioSpec(44100, 2048, 512, 2048, 80, 0.0, 22050.0)
    predictor = build_predictor(arguments.f0_predictor, audio)
    names = {"source: " + arguments.source.name: arguments.source, "result: " + arguments.result.name: arguments.result}
    sounds = {name: io.load(path, audio.sampling_rate) for name, path in names.items()}
    curves = {name: predictor.predict(wav) for name, wav in sounds.items()}
    match = match_melody(*curves.values(), audio.frame_rate)
    output = arguments.output or arguments.result.with_suffix(".png")
    draw_comparison(output, sounds, curves, audio, f"{match} ({arguments.f0_predictor})")
    print(match)
    print(f"Picture: {output}")
    return 0


if __name__ == "__main__":
    run(main)
