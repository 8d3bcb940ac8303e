"""Beside step 4 of the recipe: an index of each speaker's units, for a voice closer to the training data.

Reads configs/config.json (the speakers and the encoder) and dataset/44k/SPEAKER/*.wav.soft.pt, which
preprocess_hubert_f0.py has made.
Writes logs/44k/feature_and_index.json and one feature_and_index_*.faiss for each speaker, in the place of earlier ones;
with --upstream also feature_and_index.pkl, for so-vits-svc 4.1.
Units that cannot be read, or whose clip has changed or is gone, are named and left out; so are speakers without any.

Example: python train_index.py -c configs/config.json
"""

import argparse
import logging
from pathlib import Path

from cluster import check_seed, require_faiss
from modules.cli import configure_logging, make_parser, next_step, run
from modules.errors import DataError

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Makes the index; returns 0, or 1 when a clip or a speaker had to be left out."""
    args = make_arguments().parse_args(argv)
    check_seed(args.seed)

    from cluster.units import read_speaker, speakers_with_units
    from modules.config.io import load_config

    require_faiss()
    configure_logging()
    config = load_config(args.config)
    encoder, width = config.model.speech_encoder, config.model.ssl_dim
    if not config.spk:
        raise DataError(f"{args.config}: spk names no speaker. Make it with: python preprocess_flist_config.py")
    speakers = speakers_with_units(args.root_dir, list(config.spk))

    from cluster.index_files import JSON_NAME, PICKLE_NAME, write_indexes, write_pickled_index
    from cluster.retrieval import train_index
    from modules.files import check_place, remove_leftovers

    for name in (JSON_NAME, PICKLE_NAME)[: 1 + args.upstream]:
        check_place(args.output_dir / name)
    remove_leftovers(args.output_dir, recursive=False)
    indexes, n_skipped = {}, 0
    for name in speakers:
        units, skipped = read_speaker(args.root_dir / name, width, encoder)
        n_skipped += skipped
        if not len(units):
            continue
        index = train_index(units, args.seed, progress=name)
        indexes[name] = config.spk[name], index
        logger.info("%s: %d vectors of %d frames, %d wide", name, index.ntotal, len(units), width)
    if not indexes:
        raise DataError(f"{args.root_dir}: holds no usable units. Make them with: python preprocess_hubert_f0.py")
    path = write_indexes(args.output_dir, indexes, encoder, width)
    logger.info("written: %s", path)
    if args.upstream:
        logger.info("written: %s, for so-vits-svc 4.1", write_pickled_index(args.output_dir, indexes))
    flags = "-s", next(iter(indexes)), "-cm", path.as_posix(), "-fr", "-cr", 0.5
    print(next_step("python inference_main.py -m logs/44k/G_STEP.pth -n SONG.wav", *flags))
    return 1 if n_skipped or len(indexes) < len(config.spk) else 0


def make_arguments() -> argparse.ArgumentParser:
    """The flags, as --help and the web page show them."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("--root_dir", type=Path, default=Path("dataset/44k"), help="folder with one folder per speaker")
    parser.add_argument("-c", "--config", type=Path, default=Path("./configs/config.json"), help="config of step 2")
    parser.add_argument("--output_dir", type=Path, default=Path("logs/44k"), help="folder for the result")
    parser.add_argument("--seed", type=int, default=0, help="the same gives the same index")
    also = "also write feature_and_index.pkl, the same index as so-vits-svc 4.1 reads it"
    parser.add_argument("--upstream", action="store_true", help=also)
    return parser


if __name__ == "__main__":
    run(main)
