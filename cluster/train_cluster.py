"""Beside step 4 of the recipe: cluster centres of each speaker's units, for a voice closer to the training data.

Reads dataset/44k/SPEAKER/*.wav.soft.pt, which preprocess_hubert_f0.py has made.
Writes logs/44k/kmeans_10000.pt, in the place of an earlier one.
Units that cannot be read, or whose clip has changed or is gone, are named and left out; so are speakers without any.

Example: python cluster/train_cluster.py --gpu
"""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as cluster/train_cluster.py from anywhere

from cluster import check_seed
from modules.cli import configure_logging, make_parser, next_step, run
from modules.errors import DataError, UsageError

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Trains; returns 0, or 1 when a clip or a speaker had to be left out."""
    args = make_arguments().parse_args(argv)
    if args.n_clusters < 1:
        raise UsageError(f"--n_clusters {args.n_clusters}: expected 1 or more")
    check_seed(args.seed)

    from cluster.units import encoder_of, read_speaker, speakers_with_units

    configure_logging()
    if not args.dataset.is_dir():
        raise DataError(f"{args.dataset}: no such folder. Make its units with: python preprocess_hubert_f0.py")
    names = sorted(path.name for path in args.dataset.iterdir() if path.is_dir() and not path.name.startswith("."))
    speakers = speakers_with_units(args.dataset, names)

    from cluster.kmeans import save_centres, train_centres
    from modules.device import choose_device
    from modules.files import check_place, remove_leftovers

    path = args.output / "kmeans_10000.pt"
    check_place(path)
    device = choose_device(None if args.gpu else "cpu")
    if args.gpu and device.type == "cpu":
        raise UsageError("--gpu: no GPU that torch can use. Leave the flag out to compute on the CPU.")
    remove_leftovers(args.output, recursive=False)
    encoder = encoder_of(args.dataset / name for name in speakers)
    centres, n_skipped, width = {}, 0, None
    for name in speakers:
        units, skipped = read_speaker(args.dataset / name, width, encoder or None)
        n_skipped += skipped
        n_frames, width = len(units), units.shape[1] or width
        if not n_frames:
            continue
        if n_frames < args.n_clusters:
            logger.warning("%s has %d frames only: each becomes one of its centres", name, n_frames)
        centres[name] = train_centres(units, args.n_clusters, device, args.seed, progress=name)
        logger.info("%s: %d centres of %d frames, %d wide", name, len(centres[name]), n_frames, width)
    if not centres:
        raise DataError(f"{args.dataset}: holds no usable units. Make them with: python preprocess_hubert_f0.py")
    save_centres(path, centres, encoder)
    logger.info("written: %s", path)
    flags = "-s", next(iter(centres)), "-cm", path.as_posix(), "-cr", 0.5
    print(next_step("python inference_main.py -m logs/44k/G_STEP.pth -n SONG.wav", *flags))
    return 1 if n_skipped or len(centres) < len(names) else 0


def make_arguments() -> argparse.ArgumentParser:
    """The flags, as --help and the web page show them."""
    parser = make_parser(__file__, __doc__)
    add = parser.add_argument
    add("--dataset", type=Path, default=Path("./dataset/44k"), help="folder with one folder per speaker")
    add("--output", type=Path, default=Path("logs/44k"), help="folder for the result")
    add("--gpu", action="store_true", help="compute on the GPU, which is much faster")
    add("--n_clusters", type=int, default=10000, help="centres per speaker")
    add("--seed", type=int, default=0, help="the same gives the same centres")
    return parser


if __name__ == "__main__":
    run(main)
