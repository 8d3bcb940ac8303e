"""Beside step 4 of the recipe: cluster centres of each speaker's units, for a voice closer to the training data.

Reads dataset/44k/SPEAKER/*.wav.soft.pt, which preprocess_hubert_f0.py has made.
Writes logs/44k/kmeans_10000.pt, in the place of an earlier one.
Clips whose units cannot be read are named and left out, and so are speakers without any.

Example: python cluster/train_cluster.py --gpu
"""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as cluster/train_cluster.py from anywhere

from modules.cli import configure_logging, make_parser, next_step, run
from modules.errors import DataError, UsageError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

FILE_NAME = "kmeans_10000.pt"
MAX_SEED = 10**9


def main(argv: list[str] | None = None) -> int:
    """Trains; returns 0, or 1 when a clip or a speaker had to be left out."""
    parser = make_parser(__file__, __doc__)
    help_dataset = "folder with one folder per speaker"
    parser.add_argument("--dataset", type=Path, default=Path("./dataset/44k"), help=help_dataset)
    parser.add_argument("--output", type=Path, default=Path("logs/44k"), help="folder for the result")
    parser.add_argument("--gpu", action="store_true", help="compute on the GPU, which is much faster")
    parser.add_argument("--n_clusters", type=int, default=10000, help="centres per speaker")
    parser.add_argument("--seed", type=int, default=0, help="the same gives the same centres")
    arguments = parser.parse_args(argv)
    if arguments.n_clusters < 1:
        raise UsageError(f"--n_clusters {arguments.n_clusters}: expected 1 or more")
    if not 0 <= arguments.seed <= MAX_SEED:
        raise UsageError(f"--seed {arguments.seed}: expected 0 to {MAX_SEED}")
    return _train(arguments.dataset, arguments.output, arguments.n_clusters, arguments.gpu, arguments.seed)


def _train(dataset: Path, output: Path, n_clusters: int, on_gpu: bool, seed: int) -> int:
    from cluster.kmeans import save_centres, train_centres
    from cluster.units import clips_with_units, read_speaker
    from modules.files import remove_leftovers

    configure_logging()
    device = _choose_device(on_gpu)
    folders = _speaker_folders(dataset)
    with_units = [folder for folder in folders if clips_with_units(folder)]
    if not with_units:
        raise DataError(f"{dataset}: holds no units (*.wav.soft.pt). Make them with: python preprocess_hubert_f0.py")
    without = [folder.name for folder in folders if folder not in with_units]
    if without:
        logger.warning("no units of %s: left out. Make them with: python preprocess_hubert_f0.py", ", ".join(without))
    if output.is_dir():
        remove_leftovers(output, recursive=False)
    centres, n_skipped, width = {}, 0, None
    for folder in with_units:
        speaker = read_speaker(folder, width)
        n_skipped += speaker.n_skipped
        n_frames, width = speaker.units.shape
        if n_frames < n_clusters:
            logger.warning("%s has %d frames only: each becomes one of its centres", folder.name, n_frames)
        centres[folder.name] = train_centres(speaker.units, n_clusters, device, seed, progress=folder.name)
        logger.info("%s: %d centres of %d frames, %d wide", folder.name, len(centres[folder.name]), n_frames, width)
    save_centres(output / FILE_NAME, centres)
    logger.info("written: %s", output / FILE_NAME)
    flags = f'-s "{next(iter(centres))}" -cm "{(output / FILE_NAME).as_posix()}" -cr 0.5'
    print(next_step(f"python inference_main.py -m logs/44k/G_STEP.pth -n SONG.wav {flags}"))
    return 1 if n_skipped or without else 0


def _choose_device(on_gpu: bool) -> "torch.device":
    from modules.device import choose_device

    device = choose_device(None if on_gpu else "cpu")
    if on_gpu and device.type == "cpu":
        raise UsageError("--gpu: no GPU that torch can use is here. Leave the flag out to compute on the CPU.")
    return device


def _speaker_folders(dataset: Path) -> list[Path]:
    if not dataset.is_dir():
        raise DataError(f"{dataset}: no such folder. Make its units with: python preprocess_hubert_f0.py")
    return sorted(path for path in dataset.iterdir() if path.is_dir() and not path.name.startswith("."))


if __name__ == "__main__":
    run(main)
