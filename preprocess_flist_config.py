"""Step 2 of the recipe: file lists and configuration.

Reads dataset/44k/SPEAKER/*.wav (step 1 made them) and, where there is one, the existing configs/config.json: speaker
ids and your own edits stay. Writes filelists/train.txt, filelists/val.txt, configs/config.json, configs/diffusion.yaml.

Example: python preprocess_flist_config.py --speech_encoder whisper-ppg-base --vol_aug
"""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from modules.cli import configure_logging, make_parser, next_step, run
from modules.errors import ConfigError, UsageError
from modules.files import set_aside

if TYPE_CHECKING:
    from modules.config.schema import Config

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Writes lists and configuration; returns the exit code."""
    arguments = make_arguments().parse_args(argv)
    if arguments.tiny + arguments.small + arguments.micro > 1:
        raise UsageError("--tiny, --small and --micro are presets: choose one")

    from modules.data.filelist import check_lists, scan, split_clips, write_list
    from modules.registry import require_declared

    configure_logging()
    require_declared("speech encoder", "modules.encoders", arguments.speech_encoder)
    check_lists(arguments.train_list, arguments.val_list)
    found, n_left_out = scan(arguments.source_dir)
    train, validation = split_clips(found, arguments.seed)

    from modules.encoders.base import encoder_dim  # imports torch

    width = encoder_dim(arguments.speech_encoder)
    write_list(arguments.train_list, train)
    write_list(arguments.val_list, validation)
    config = _write_config(arguments, width, list(found))
    _write_diffusion_config(arguments, width, config.spk)

    for speaker, clips in found.items():
        kept, minutes = len(clips.keys() & set(validation)), sum(clips.values()) / 60
        print(f"{speaker}: id {config.spk[speaker]}, {len(clips)} clips, {minutes:.1f} min, {kept} for validation")
    print(f"{arguments.train_list}: {len(train)} clips · {arguments.val_list}: {len(validation)} clips")
    from modules.config.bases import advise_base
    from modules.doctor.sounds import sum_up

    print(f"{sum_up(found)}. All: python doctor.py clips")
    print(advise_base(config))
    print(next_step("python preprocess_hubert_f0.py"))
    return 1 if n_left_out else 0


def make_arguments() -> argparse.ArgumentParser:
    """The flags, as --help and the web page show them."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("--train_list", type=Path, default=Path("./filelists/train.txt"), help="training list to write")
    parser.add_argument("--val_list", type=Path, default=Path("./filelists/val.txt"), help="validation list to write")
    parser.add_argument("--source_dir", type=Path, default=Path("./dataset/44k"), help="folder with the clips")
    parser.add_argument("--speech_encoder", default="vec768l12", help="content encoder; pretrain/README.md lists them")
    parser.add_argument("--vol_aug", action="store_true", help="the model follows the loudness of its input")
    parser.add_argument("--tiny", action="store_true", help="fewer parameters")
    parser.add_argument(
        "--small", action="store_true", help="a model of 21 MB, fast on a CPU; its base model is in pretrain/base-small"
    )
    parser.add_argument("--micro", action="store_true", help="small enough to train on two CPU cores")
    parser.add_argument("--tf_flow", action="store_true", help="transformer flow with shared parameters")
    parser.add_argument("--seed", type=int, default=1234, help="decides which clips are kept for validation")
    return parser


def _preset(arguments) -> str:
    return next((name for name in ("tiny", "small", "micro") if getattr(arguments, name)), "base")


def _write_config(arguments, width: int, speakers: list[str]) -> "Config":
    """Writes configs/config.json, in which the user's edits stay, and returns it."""
    from modules.config.edits import Design, keep_edits
    from modules.config.io import load_config, parse_config, read_json, save_config, to_plain

    path = Path("configs/config.json")
    old = _load_or_set_aside(load_config, path)
    old = old and to_plain(old)
    ids = _assign_ids(speakers, old)
    design = Design(_preset(arguments), arguments.speech_encoder, width, arguments.vol_aug, arguments.tf_flow)
    new, changes = keep_edits(old, design)
    new["data"]["training_files"] = arguments.train_list.as_posix()
    new["data"]["validation_files"] = arguments.val_list.as_posix()
    new["model"]["n_speakers"] = max(ids.values()) + 1
    config = parse_config({**new, "spk": ids}, path)
    _report_changes(path, changes)
    if old is None or to_plain(config) != read_json(path):
        save_config(config, path)
    return config


def _write_diffusion_config(arguments, width: int, ids: dict[str, int]) -> None:
    """Writes configs/diffusion.yaml, in which the user's edits stay."""
    from modules.config import diffusion
    from modules.config.edits import keep_diffusion_edits
    from modules.config.io import to_plain

    path = Path("configs/diffusion.yaml")
    old = _load_or_set_aside(diffusion.load_diffusion_config, path)
    new, changes = keep_diffusion_edits(old and to_plain(old), _preset(arguments))
    _report_changes(path, changes)
    config = diffusion.parse_diffusion_config(new, path)
    config.data.encoder, config.data.encoder_out_channels = arguments.speech_encoder, width
    config.data.training_files = arguments.train_list.as_posix()
    config.data.validation_files = arguments.val_list.as_posix()
    config.model.n_spk, config.spk = max(ids.values()) + 1, ids
    if old is None or path.read_text("utf-8") != diffusion.dump_diffusion_config(config):
        diffusion.save_diffusion_config(config, path)


def _report_changes(path: Path, changes: list[str]) -> None:
    """Keeps a config that is about to become another network's, and says what is reset in the new one."""
    if changes:
        text = "%s describes another network now (%s); your other edits stay, and the old one is kept as %s"
        logger.warning(text, path, ", ".join(changes), set_aside(path, copy=True))


def _load_or_set_aside(load, path: Path):
    """The existing config, or None; one that cannot be read is kept under another name."""
    if not path.exists():
        return None
    try:
        return load(path)
    except ConfigError as error:
        logger.warning("%s. It is kept as %s and written anew", str(error).rstrip("."), set_aside(path, copy=True))
        return None


def _assign_ids(speakers: list[str], old: dict | None) -> dict[str, int]:
    """Ids by name: those of the old config stay, also of speakers that are gone; new ones get the next free numbers."""
    ids = dict(old["spk"]) if old else {}
    for speaker in sorted(set(speakers) - set(ids)):
        ids[speaker] = max(ids.values(), default=-1) + 1
    gone = sorted(set(ids) - set(speakers))
    if gone:
        logger.info("speakers without clips keep their ids: %s", ", ".join(gone))
    return dict(sorted(ids.items(), key=lambda item: item[1]))


if __name__ == "__main__":
    run(main)
