"""Speed and memory of inference_main.py, of this checkout and with --compare of another one in turn with it.

    start-up   a whole process that converts a clip of two seconds: nearly all of it is imports and loading
    song       a whole process that converts --song or made babble: seconds, seconds of work per second of audio (real-
               time factor, without the loading), and the peak of memory in MB

Weights are random, of the published sizes: the speed is the same. Writes only to a temporary folder.

Example: python benchmarks/inference.py --compare ../before --predictor dio fcpe
"""

import re
import shutil
import sys
from pathlib import Path

from timing import (
    ROOT,
    SPEAKER,
    Side,
    alternate,
    apart,
    make_parser,
    print_machine,
    show,
    sides,
    write_song,
    write_voice,
)


def main(argv: list[str] | None = None) -> int:
    """Prints the measurements."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=60.0, help="length of the made song, without its pauses (default: 60)")
    add("--song", type=Path, help="a recording to convert instead")
    add("--predictor", nargs="+", default=["dio"], metavar="NAME", help="F0 predictors (default: dio)")
    sizes = ["base", "tiny", "small", "micro"]
    add("--size", choices=sizes, default="base", help="of the voice (default: %(default)s)")
    add("--retrieval", action="store_true", help="with a feature index at 0.5")
    add("--precision", default="fp32", choices=["fp32", "fp16", "bf16"], help="(default: %(default)s)")
    args = parser.parse_args(argv)
    song = "song.wav" if args.song is None else "song" + args.song.suffix
    apart(print_machine, f"vec768l12, voice of the {args.size} size, {args.precision}")

    def convert(side: Side, name: str, predictor: str) -> dict[str, float]:
        flags = ["-m", "G_1.pth", "-c", "config.json", "-n", name, "-s", SPEAKER, "-f0p", predictor, "-wf", "wav"]
        flags += ["--precision", args.precision, *(["-d", args.device] if args.device else [])]
        flags += ["-cm", "feature_and_index.json", "-fr", "-cr", "0.5"] if args.retrieval else []
        done = side.run("inference_main.py", *flags)
        factor = float(re.search(r"real-time factor ([\d.]+)", done.output)[1])
        whole = {"seconds": done.seconds, "CPU seconds": done.cpu_seconds, "MB": done.memory}
        return whole | {"real-time factor": factor}

    with sides(args.compare) as found:
        for side in found:
            write_song(side.workspace / "clip.wav", 1.0)  # a second of silence follows
            if args.song is None:
                write_song(side.workspace / song, args.seconds)
            else:
                shutil.copyfile(args.song, side.workspace / song)
            apart(write_voice, side.workspace, args.size)
            if args.retrieval:
                apart(write_index, side.workspace)
        clip = alternate(found, lambda side: convert(side, "clip.wav", args.predictor[0]), args.rounds)
        show("start-up", found, [{name: column[name] for name in ("seconds", "CPU seconds", "MB")} for column in clip])
        for predictor in args.predictor:
            medians = alternate(found, lambda side, name=predictor: convert(side, song, name), args.rounds)
            show(f"song with {predictor}", found, medians)
    return 0


def write_index(folder: Path) -> None:
    """A feature index of ten minutes of random units for the voice of `write_voice`."""
    import numpy as np

    sys.path.insert(0, str(ROOT))
    from cluster.index_files import write_indexes
    from cluster.retrieval import train_index

    units = np.random.default_rng(0).standard_normal((30000, 768), np.float32)
    write_indexes(folder, {SPEAKER: (0, train_index(units))}, "vec768l12", 768)


if __name__ == "__main__":
    sys.exit(main())
