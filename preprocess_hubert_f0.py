"""Step 3 of the recipe: the features of each clip that training needs.

Reads configs/config.json and dataset/44k/SPEAKER/*.wav.
Writes, beside each X.wav: X.wav.soft.pt (units), X.wav.f0.npy (F0), X.spec.pt (the spectrum), X.wav.vol.npy (volume,
if model.vol_embedding is set) and X.wav.features.json (how they were made); and dataset/44k/f0_histograms.json (which
notes each speaker sings, for the transposition of songs).
With --use_diff it reads configs/diffusion.yaml too, and also writes X.wav.vol.npy, X.wav.mel.npy (the mel of the
vocoder) and X.wav.aug_mel.npy, X.wav.aug_vol.npy, X.wav.aug_shift.npy (the clip at another loudness and pitch).
What is up to date stays; run it again after an interruption or a change, and only the rest is made. A clip that cannot
be used is named and costs only itself; a full disk ends the run, with what is made kept.

Example: python preprocess_hubert_f0.py --f0_predictor fcpe --num_processes 2
"""

import argparse
import contextlib
import errno
import logging
import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from modules.cli import configure_logging, make_parser, next_step, run
from modules.errors import FAILURES, ConfigError, DataError, UsageError, reason_of
from modules.f0.limits import F0_MAX, F0_MIN, check_limits
from modules.text import quote

logger = logging.getLogger(__name__)

DIFFUSION_CONFIG = Path("configs/diffusion.yaml")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # EFBIG: `ulimit -f`; features are small


def main(argv: list[str] | None = None) -> int:
    """Makes the features; returns 0, or 1 when some clips had to be skipped."""
    arguments = make_arguments().parse_args(argv)
    if arguments.num_processes < 0:
        raise UsageError(f"--num_processes {arguments.num_processes}: expected 0 or more")
    if arguments.upstream and not arguments.use_diff:
        raise UsageError(
            "--upstream: so-vits-svc 4.1 reads the other features as they are. Add --use_diff, or leave it out"
        )
    check_limits(arguments.f0_min, arguments.f0_max)
    if not re.fullmatch(r"|auto|cpu|mps|cuda(:\d+)?", arguments.device or ""):
        raise UsageError(f"-d {arguments.device}: unknown device. Known: cpu, cuda, cuda:1 and so on, mps")

    from modules.config.io import load_config
    from modules.data.clips import find_clips, report_orphans
    from modules.pretrained.needs import require_parts

    configure_logging()
    clips, n_skipped = find_clips(arguments.in_dir)
    config = load_config(arguments.config)
    require_parts(config.model.speech_encoder, arguments.f0_predictor)
    predictor = arguments.f0_predictor or _usual_predictor()

    from tqdm import tqdm

    from modules.data.features import VERSIONS, missing
    from modules.data.pitch import warn_of_doubt, write_histograms
    from modules.files import remove_leftovers

    recipe = _make_recipe(config, predictor, arguments.use_diff)
    recipe = replace(recipe, f0_min=arguments.f0_min, f0_max=arguments.f0_max)
    remove_leftovers(arguments.in_dir)
    bar = tqdm(clips, desc="check", unit="file", dynamic_ncols=True, leave=False, delay=1)
    todo = {path: names for path in bar if (names := missing(path, recipe))}
    n_current = len(clips) - len(todo)
    failed = _refuse_unusable(todo)
    made = Counter()
    if todo:
        made = _extract_all(todo, _make_plan(todo, recipe, arguments), failed)
    n_skipped += len(failed)
    write_histograms(arguments.in_dir, [clip for clip in clips if clip not in failed])
    warn_of_doubt([clip for clip, names in todo.items() if "f0" in names and clip not in failed], recipe)
    report_orphans(arguments.in_dir)
    _report_edited(arguments.in_dir, clips)
    _report_lists(config.data, arguments.in_dir, [clip for clip in clips if clip not in failed])
    if arguments.upstream:
        _export([clip for clip in clips if clip not in failed])
    detail = ", ".join(f"{made[name]} {name}" for name in VERSIONS if made[name])
    shown = f"{made['clips']} made ({detail})" if detail else "0 made"
    logger.info("%d clips: %s, %d up to date, %d skipped", len(clips), shown, n_current, n_skipped)
    if n_skipped:
        logger.warning("fix or remove the skipped clips, then run preprocess_flist_config.py and this again")
        return 1
    print(next_step("python train.py", "-c", arguments.config.as_posix(), "-m", "44k"))
    if arguments.use_diff and not arguments.upstream:
        print(next_step("python train_diff.py", "-c", DIFFUSION_CONFIG.as_posix()))
    return 0


def make_arguments() -> argparse.ArgumentParser:
    """The flags, as --help and the web page show them."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("-c", "--config", type=Path, default=Path("configs/config.json"), help="the config of step 2")
    parser.add_argument("-d", "--device", help="cpu, cuda, cuda:1 or mps; the best there is by default")
    parser.add_argument("--in_dir", type=Path, default=Path("dataset/44k"), help="folder with one folder per speaker")
    parser.add_argument(
        "--f0_predictor",
        help="F0 predictor: rmvpe, fcpe, crepe, harvest, dio, pm or swift; docs/encoders-and-f0.md compares them "
        "(default: rmvpe, as in so-vits-svc, where its file is; else fcpe, which is exact, quick and needs none)",
    )
    highest = "highest pitch in Hz that is looked for; up to 2000 for whistle notes and high sopranos"
    parser.add_argument("--f0_max", type=float, default=F0_MAX, help=highest)
    lowest = "lowest pitch in Hz that is looked for; from 36 on"
    parser.add_argument("--f0_min", type=float, default=F0_MIN, help=lowest)
    parser.add_argument("--num_processes", type=int, default=1, help="worker processes; 0 = one for each core")
    precision = "of the content encoder; auto: bf16 for most of it on a CPU that computes that, which is quicker"
    parser.add_argument("--precision", choices=["auto", "fp32"], default="fp32", help=precision)
    parser.add_argument(
        "--use_diff",
        action="store_true",
        help="make what the diffusion model needs as well: volume, the vocoder's mel, and both of the clip at another "
        "loudness and pitch",
    )
    also = "with --use_diff: leave aug_mel.npy as so-vits-svc 4.1 reads it, for training there"
    parser.add_argument("--upstream", action="store_true", help=also)
    return parser


def _export(clips: list[Path]) -> None:
    """Gives the features of diffusion training the form that so-vits-svc 4.1 reads."""
    from modules.data.features import export_augmented

    for clip in clips:
        export_augmented(clip)
    text = "%d aug_mel.npy are in so-vits-svc 4.1's form now; to train here again, run this without --upstream first"
    logger.info(text, len(clips))


def _report_edited(in_dir: Path, clips: list[Path]) -> None:
    """Warns of features that somebody edited, or copied from another clip: they fit, and are used."""
    from modules.data.clips import shorten
    from modules.data.features import edited_files

    if edited := [path.relative_to(in_dir) for clip in clips for path in edited_files(clip)]:
        text = "%d files of features are not as they were made for their clips (%s), and are used all the same; "
        logger.warning(text + "delete what should be made again", len(edited), shorten(edited))


def _report_lists(data, in_dir: Path, clips: list[Path]) -> None:
    """Warns of clips that step 2 has not seen, which training would not hear, and of clips that are gone since."""
    from modules.data.clips import shorten
    from modules.data.filelist import read_list, report_repeats

    lists = data.training_files, data.validation_files
    try:
        paths = [path for name in lists for path in read_list(Path(name))]
        report_repeats(*map(Path, lists))
    except (DataError, OSError):  # training says what is wrong with the lists
        return
    listed, remedy = {path.absolute() for path in paths}, "Mend the lists with: python preprocess_flist_config.py"
    if unlisted := [clip.relative_to(in_dir) for clip in clips if clip.absolute() not in listed]:
        text = "%d clips are in neither %s nor %s (%s): training does not hear them. %s"
        logger.warning(text, len(unlisted), *lists, shorten(unlisted), remedy)
    if gone := [path for path in paths if not os.path.lexists(path)]:
        text = "%d clips of %s and %s do not exist (%s): training refuses such lists. %s"
        logger.warning(text, len(gone), *lists, shorten(gone), remedy)


def _usual_predictor() -> str:
    """so-vits-svc's default where its file is, else the one that is most often right without a download."""
    from modules.pretrained.catalogue import weights_of
    from modules.pretrained.find import find

    if found := find(weights_of("rmvpe")[0].path):
        logger.info("F0 predictor: rmvpe, so-vits-svc's default, as %s is here", found)
        return "rmvpe"
    text = "F0 predictor: fcpe, as rmvpe's file is not here (python pretrain/download.py rmvpe); of those that need no "
    logger.info(text + "download it has the fewest wrong octaves")
    return "fcpe"


def _make_recipe(config, predictor: str, use_diff: bool):
    """What the config asks for; refuses one whose width is not its encoder's."""
    from modules.data.features import FeatureRecipe
    from modules.encoders.base import encoder_dim, encoder_identity
    from modules.f0.base import predictor_identity

    config_path, name, width = config.path, config.model.speech_encoder, config.model.ssl_dim
    if encoder_dim(name) != width:
        raise ConfigError(
            f"{config_path}: model.ssl_dim is {width}, but {name} gives units {encoder_dim(name)} wide. "
            f"Make the config again with: python preprocess_flist_config.py --speech_encoder {quote(name)}"
        )
    identities = encoder_identity(name), predictor_identity(predictor)
    mel = _read_mel(config, config_path) if use_diff else None
    seed, with_volume = config.train.seed, config.model.vol_embedding
    return FeatureRecipe(*identities, config.audio, with_volume, mel=mel, seed=seed, unit_width=width)


def _read_mel(config, config_path: Path):
    """The mel of the vocoder that diffusion.yaml names; refuses one that does not go with the config."""
    from modules.config.diffusion import load_diffusion_config
    from modules.config.vocoder import find_mel, require_same_frames

    diffusion = load_diffusion_config(DIFFUSION_CONFIG)
    if diffusion.data.encoder != config.model.speech_encoder:
        raise ConfigError(
            f"{DIFFUSION_CONFIG} has data.encoder {diffusion.data.encoder}, but {config_path} has model.speech_encoder "
            f"{config.model.speech_encoder}; both models need the same units. Make both configs again with: "
            f"python preprocess_flist_config.py --speech_encoder {quote(config.model.speech_encoder)}"
        )
    weights = diffusion.vocoder.ckpt
    mel, found = find_mel(weights)
    if found is None:
        logger.info("%s: no config.json beside it yet; mels are made for the published vocoder", weights)
    require_same_frames(config.audio, config_path, mel, found or f"the published vocoder ({weights})")
    return mel


@dataclass(frozen=True)
class _Plan:
    """Which process runs which network."""

    recipe: object
    device: object  # where the networks run
    workers: int  # processes that prepare clips; 1 is a thread of this process
    threads: int  # for the computations of one worker
    later: tuple[str, ...]  # features that the workers leave to this process
    needed: frozenset[str]  # features that are missing anywhere
    dtype: object  # of most of the content encoder

    def networks(self, here: bool) -> tuple:
        """Encoder and F0 predictor of this process, or of a worker; None where it does not need one."""
        from modules.encoders.base import build_encoder
        from modules.f0.base import build_predictor

        recipe = self.recipe
        wanted = {name for name in self.needed if (name in self.later) == here}
        encoder = build_encoder(recipe.encoder_name, self.device, self.dtype) if "units" in wanted else None
        if "f0" not in wanted:
            return encoder, None
        limits = {"f0_min": recipe.f0_min, "f0_max": recipe.f0_max}
        return encoder, build_predictor(recipe.predictor_name, recipe.audio, device=self.device, **limits)


def _make_plan(todo: dict[Path, list[str]], recipe, arguments: argparse.Namespace) -> _Plan:
    """One process for the networks of a GPU; on a CPU, whole clips side by side as soon as there are two processes."""
    import torch

    from modules.device import choose_device, computes_bf16
    from modules.f0.base import PREDICTORS
    from modules.parallel import choose_workers

    chosen = choose_device(arguments.device)
    workers = choose_workers(arguments.num_processes, len(todo))
    if chosen.type == "cuda":
        later = ("units", "f0") if PREDICTORS.get(recipe.predictor_name).is_network else ("units",)
    else:
        later = ("units",) if workers == 1 else ()
    threads = max(1, (os.cpu_count() or 1) // max(2, workers))
    dtype = torch.bfloat16 if arguments.precision == "auto" and computes_bf16(chosen) else torch.float32
    return _Plan(recipe, chosen, workers, threads, later, frozenset().union(*todo.values()), dtype)


_worker: tuple | None = None  # of this process: the plan, the encoder, the F0 predictor


def _start_worker(plan: _Plan) -> None:
    global _worker
    import torch

    torch.set_num_threads(plan.threads)
    _worker = (plan, *plan.networks(here=False))


def _prepare_one(path: Path):
    from modules.data.extraction import extract

    plan, encoder, predictor = _worker
    return extract(path, plan.recipe, encoder, predictor, plan.later)


def _refuse_unusable(todo: dict[Path, list[str]]) -> set[Path]:
    """Takes what is no clip or too long a clip out of `todo`, each with a warning, before networks are loaded."""
    from modules.data.extraction import require_length

    failed = set()
    for path in list(todo):
        try:
            require_length(path)
        except FAILURES as error:
            logger.warning("%s: %s", path, reason_of(error, path))
            failed.add(path)
            del todo[path]
    return failed


def _extract_all(todo: dict[Path, list[str]], plan: _Plan, failed: set[Path]) -> Counter:
    """How many of each feature were made; clips that could not be used are warned about and join `failed`."""
    from tqdm import tqdm

    from modules.data.extraction import BATCH_SECONDS, QUEUE_CLIPS, Networks, in_background
    from modules.parallel import run_pool

    made = Counter()
    networks = Networks(plan.recipe, *plan.networks(here=True), BATCH_SECONDS if plan.device.type == "cuda" else 0.0)
    prepared = run_pool(_prepare_one, list(todo), plan.workers, _start_worker, (plan,), show=False)
    ahead = in_background(prepared, QUEUE_CLIPS)
    with contextlib.closing(ahead), tqdm(total=len(todo), desc="features", unit="file", dynamic_ncols=True) as bar:
        for path, result in networks.finish(ahead):
            bar.update()
            if isinstance(result, Exception):
                if isinstance(result, OSError) and result.errno in _NO_ROOM:  # so would every other clip's
                    remedy = "allow writing there" if result.errno == errno.EROFS else "free some space"
                    advice = f"What is made stays; {remedy}, then run this again"
                    raise DataError(f"{reason_of(result)}. {advice}") from None
                failed.add(path)
                logger.warning("%s: %s", path, reason_of(result, path))
                continue
            made.update([*result.names, "clips"])
            if result.unvoiced:
                logger.warning("%s: no pitch was found in it; remove the clip if nobody sings in it", path)
    return made


if __name__ == "__main__":
    run(main)
