"""Beside step 4 of the recipe: an index of each speaker's units, for a voice closer to the training data.

Reads configs/config.json (the speakers and the encoder) and dataset/44k/SPEAKER/*.wav.soft.pt, which
preprocess_hubert_f0.py has made.
Writes logs/44k/feature_and_index.json and one feature_and_index_*.faiss for each speaker, in the place of earlier ones.
Clips whose units cannot be read are named and left out, and so are speakers without any.

Example: python train_index.py -c configs/config.json
"""

import logging
from pathlib import Path

from modules.cli import configure_logging, make_parser, next_step, run
from modules.errors import DataError, UsageError

logger = logging.getLogger(__name__)

MAX_SEED = 10**9


def main(argv: list[str] | None = None) -> int:
    """Makes the index; returns 0, or 1 when a clip or a speaker had to be left out."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("--root_dir", type=Path, default=Path("dataset/44k"), help="folder with one folder per speaker")
    parser.add_argument("-c", "--config", type=Path, default=Path("./configs/config.json"), help="config of step 2")
    parser.add_argument("--output_dir", type=Path, default=Path("logs/44k"), help="folder for the result")
    parser.add_argument("--seed", type=int, default=0, help="the same gives the same index")
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.seed <= MAX_SEED:
        raise UsageError(f"--seed {arguments.seed}: expected 0 to {MAX_SEED}")
    return _train(arguments.root_dir, arguments.config, arguments.output_dir, arguments.seed)


def _train(root: Path, config_path: Path, output: Path, seed: int) -> int:
    from cluster import require_faiss
    from cluster.index_files import write_indexes
    from cluster.retrieval import train_index
    from cluster.units import clips_with_units, read_speaker
    from modules.config.io import load_config
    from modules.files import remove_leftovers

    require_faiss()
    configure_logging()
    config = load_config(config_path)
    encoder, width = config.model.speech_encoder, config.model.ssl_dim
    if not config.spk:
        raise DataError(f"{config_path}: spk names no speaker. Make it with: python preprocess_flist_config.py")
    with_units = {name: number for name, number in config.spk.items() if clips_with_units(root / name)}
    if not with_units:
        raise DataError(
            f"{root}: holds no units (*.wav.soft.pt) of {', '.join(config.spk)}. "
            "Make them with: python preprocess_hubert_f0.py"
        )
    without = [name for name in config.spk if name not in with_units]
    if without:
        logger.warning("no units of %s: left out. Make them with: python preprocess_hubert_f0.py", ", ".join(without))
    if output.is_dir():
        remove_leftovers(output, recursive=False)
    indexes, n_skipped = {}, 0
    for name, number in with_units.items():
        speaker = read_speaker(root / name, width, encoder)
        n_skipped += speaker.n_skipped
        index = train_index(speaker.units, seed, progress=name)
        indexes[name] = number, index
        logger.info("%s: %d vectors of %d frames, %d wide", name, index.ntotal, len(speaker.units), width)
    path = write_indexes(output, indexes, encoder, width)
    logger.info("written: %s", path)
    flags = f'-s "{next(iter(indexes))}" -cm "{path.as_posix()}" -fr -cr 0.5'
    print(next_step(f"python inference_main.py -m logs/44k/G_STEP.pth -n SONG.wav {flags}"))
    return 1 if n_skipped or without else 0


if __name__ == "__main__":
    run(main)
