"""Speed and memory of inference_main.py, of this checkout and with --compare of another one in turn with it.

    start-up   a whole process that converts a clip of two seconds: nearly all of it is imports and loading
    song       a whole process that converts --song or made babble: seconds, seconds of work per second of audio (real-
               time factor, without the loading), and the peak of memory in MB

Weights are random, of the published sizes: the speed is the same. Writes only to a temporary folder.

Example: python benchmarks/inference.py --compare ../before --predictor dio fcpe
"""

import shutil
import sys
from pathlib import Path

import timing


def main(argv: list[str] | None = None) -> int:
    """Prints the measurements."""
    parser = timing.make_parser(__file__, __doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=60.0, help="length of the made song, without its pauses")
    add("--song", type=Path, help="a recording to convert instead")
    add("--predictor", nargs="+", default=["dio"], metavar="NAME", help="F0 predictors")
    add("--size", choices=["base", "tiny", "small", "micro"], default="base", help="of the voice")
    add("--retrieval", action="store_true", help="with a feature index at 0.5")
    add("--precision", default="fp32", choices=["auto", "fp32", "fp16", "bf16"], help="of the networks")
    args = parser.parse_args(argv)
    song = "song.wav" if args.song is None else "song" + args.song.suffix
    flags = ["-cm", "feature_and_index.json", "-fr", "-cr", "0.5"] if args.retrieval else []
    timing.apart(timing.print_machine, f"vec768l12, voice of the {args.size} size, {args.precision}")
    with timing.sides(args.compare) as found:
        for side in found:
            timing.write_song(side.workspace / "clip.wav", 1.0)  # a second of silence follows
            if args.song is None:
                timing.write_song(side.workspace / song, args.seconds)
            else:
                shutil.copyfile(args.song, side.workspace / song)
            timing.apart(timing.write_voice, side.workspace, args.size)
            if args.retrieval:
                timing.apart(write_index, side.workspace)
        medians = timing.alternate(found, timing.convert, args.rounds, args, "clip.wav", args.predictor[0], *flags)
        timing.show("start-up", found, medians, "seconds", "CPU seconds", "MB")
        for predictor in args.predictor:
            medians = timing.alternate(found, timing.convert, args.rounds, args, song, predictor, *flags)
            timing.show(f"song with {predictor}", found, medians)
    return 0


def write_index(folder: Path) -> None:
    """A feature index of ten minutes of random units for the voice of `write_voice`."""
    import numpy as np

    from cluster.index_files import write_indexes
    from cluster.retrieval import train_index

    units = np.random.default_rng(0).standard_normal((30000, 768), np.float32)
    write_indexes(folder, {timing.SPEAKER: (0, train_index(units))}, "vec768l12", 768)


if __name__ == "__main__":
    sys.exit(main())
