"""Step 3 of the recipe: what training needs to know about each clip.

Reads configs/config.json and dataset/44k/SPEAKER/*.wav.
Writes, beside each X.wav: X.wav.soft.pt (what is said), X.wav.f0.npy (the melody), X.spec.pt (the spectrum),
X.wav.vol.npy (the loudness, if model.vol_embedding is set) and X.wav.features.json (how they were made).
What is there and up to date stays; run it again after an interruption or a change, and only the rest is made.

Example: python preprocess_hubert_f0.py --f0_predictor fcpe --num_processes 2
"""

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from modules.cli import configure_logging, make_parser, next_step, run
from modules.errors import ConfigError, DataError, UsageError, UserError

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Makes the features; returns 0, or 1 when some clips had to be skipped."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("-c", "--config", type=Path, default=Path("configs/config.json"), help="the config of step 2")
    parser.add_argument("-d", "--device", help="cpu, cuda, cuda:1 or mps; the best there is by default")
    parser.add_argument("--in_dir", type=Path, default=Path("dataset/44k"), help="folder with one folder per speaker")
    parser.add_argument(
        "--f0_predictor",
        default="fcpe",
        help="what hears the melody: fcpe, crepe, harvest, dio or pm. fcpe is exact, quick and needs no download; "
        "rmvpe comes with a later version",
    )
    parser.add_argument("--num_processes", type=int, default=1, help="worker processes; 0 = one for each core")
    parser.add_argument("--use_diff", action="store_true", help="for shallow diffusion; comes with a later version")
    arguments = parser.parse_args(argv)
    if arguments.use_diff:
        raise UsageError("--use_diff comes with the diffusion model, in a later version; leave it out")
    if arguments.num_processes < 0:
        raise UsageError(f"--num_processes {arguments.num_processes}: expected 0 or more")

    from modules.data.features import missing
    from modules.files import remove_leftovers

    configure_logging()
    _check_predictor(arguments.f0_predictor)
    clips = _find_clips(arguments.in_dir)
    recipe = _read_recipe(arguments.config, arguments.f0_predictor)
    remove_leftovers(arguments.in_dir)
    todo = {path: names for path in _with_bar(clips, "check") if (names := missing(path, recipe))}
    made, skipped = _extract_all(todo, recipe, arguments.device, arguments.num_processes)
    _report(len(clips), len(clips) - len(todo), made, len(skipped))
    if skipped:
        return 1
    next_step(f"python train.py -c {arguments.config.as_posix()} -m 44k")
    return 0


def _check_predictor(name: str) -> None:
    from modules.f0.base import PREDICTORS

    if name == "rmvpe" and name not in PREDICTORS:
        raise UsageError("--f0_predictor rmvpe comes with a later version; use --f0_predictor fcpe")
    PREDICTORS.get(name)


def _find_clips(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("*/*") if path.suffix.lower() == ".wav" and not path.name.startswith(".")]
    if not found:
        state = "holds no SPEAKER/clip.wav" if folder.is_dir() else "no such folder"
        raise DataError(f"{folder}: {state}. Make it with: python resample.py")
    return sorted(found)


def _read_recipe(config_path: Path, predictor: str):
    """What the config asks for; refuses one whose width is not its encoder's."""
    from modules.config.io import load_config
    from modules.data.features import FeatureRecipe
    from modules.encoders.base import encoder_dim, encoder_identity

    config = load_config(config_path)
    name, width = config.model.speech_encoder, config.model.ssl_dim
    if encoder_dim(name) != width:
        raise ConfigError(
            f"{config_path}: model.ssl_dim is {width}, but {name} gives units {encoder_dim(name)} wide. "
            f"Make the config again with: python preprocess_flist_config.py --speech_encoder {name}"
        )
    return FeatureRecipe(encoder_identity(name), predictor, config.audio, config.model.vol_embedding)


def _with_bar(clips: list[Path], description: str):
    from tqdm import tqdm

    return tqdm(clips, desc=description, unit="file", dynamic_ncols=True, leave=False, delay=1)


@dataclass
class _Worker:
    """What one process keeps from clip to clip: the recipe and the networks that it needs."""

    recipe: object
    encoder: object = None
    predictor: object = None


_worker: _Worker | None = None


def _start_worker(recipe, device: str | None, needs_encoder: bool, needs_predictor: bool, threads: int | None) -> None:
    global _worker
    import torch

    from modules.device import choose_device
    from modules.encoders.base import build_encoder
    from modules.f0.base import build_predictor

    if threads is not None:
        torch.set_num_threads(threads)
    chosen = choose_device(device)
    _worker = _Worker(recipe)
    if needs_encoder:
        _worker.encoder = build_encoder(recipe.encoder.split(":")[0], chosen)
    if needs_predictor:
        limits = {"threshold": recipe.threshold, "f0_min": recipe.f0_min, "f0_max": recipe.f0_max}
        _worker.predictor = build_predictor(recipe.predictor, recipe.audio, device=chosen, **limits)


def _extract_one(path: Path) -> list[str]:
    from modules.data.features import extract

    return extract(path, _worker.recipe, _worker.encoder, _worker.predictor)


def _extract_all(todo: dict[Path, list[str]], recipe, device: str | None, wanted_workers: int):
    """How many of each feature were made, and the reason for every clip that gave none."""
    import os

    from modules.device import choose_device
    from modules.parallel import choose_workers, run_pool

    choose_device(device)
    workers = choose_workers(wanted_workers, len(todo))
    threads = max(1, (os.cpu_count() or 1) // workers) if workers > 1 else None
    needed = Counter(name for names in todo.values() for name in names)
    settings = (recipe, device, bool(needed["units"]), bool(needed["f0"]), threads)
    made, skipped = Counter(), {}
    for path, result in run_pool(_extract_one, list(todo), workers, _start_worker, settings, "features"):
        if isinstance(result, Exception):
            reason = str(result) if isinstance(result, UserError) else f"{type(result).__name__}: {result}"
            skipped[path] = reason.removeprefix(f"{path}: ")
            logger.warning("%s: %s", path, skipped[path])
        else:
            made.update([*result, "clips"])
    return made, skipped


def _report(n_clips: int, n_current: int, made: Counter, n_skipped: int) -> None:
    detail = ", ".join(f"{made[name]} {name}" for name in ("units", "f0", "spec", "volume") if made[name])
    shown = f"{made['clips']} made ({detail})" if detail else "0 made"
    logger.info("%d clips: %s, %d up to date, %d skipped", n_clips, shown, n_current, n_skipped)
    if n_skipped:
        logger.warning("mend or remove the skipped clips, then run preprocess_flist_config.py and this again")


if __name__ == "__main__":
    run(main)
