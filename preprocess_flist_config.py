"""Step 2 of the recipe: file lists and configuration.

Reads dataset/44k/SPEAKER/*.wav (step 1 made them) and, where there is one, the existing configs/config.json: speaker
ids and your own edits stay. Writes filelists/train.txt, filelists/val.txt, configs/config.json, configs/diffusion.yaml.

Example: python preprocess_flist_config.py --speech_encoder whisper-ppg-base --vol_aug
"""

import logging
from pathlib import Path

from modules.cli import configure_logging, make_parser, next_step, run
from modules.errors import ConfigError, UsageError

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Writes lists and configuration; returns the exit code."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("--train_list", type=Path, default=Path("./filelists/train.txt"), help="training list to write")
    parser.add_argument("--val_list", type=Path, default=Path("./filelists/val.txt"), help="validation list to write")
    parser.add_argument("--source_dir", type=Path, default=Path("./dataset/44k"), help="folder with the clips")
    parser.add_argument(
        "--speech_encoder", default="vec768l12", help="what hears the words; pretrain/README.md lists them"
    )
    parser.add_argument("--vol_aug", action="store_true", help="the model follows the loudness of its input")
    parser.add_argument("--tiny", action="store_true", help="fewer parameters")
    parser.add_argument(
        "--small", action="store_true", help="a voice of 12 MB that sings fast on a CPU; its base is in the checkout"
    )
    parser.add_argument("--micro", action="store_true", help="small enough to train on two CPU cores")
    parser.add_argument("--tf_flow", action="store_true", help="transformer flow with shared parameters")
    parser.add_argument("--seed", type=int, default=1234, help="decides which clips are kept for validation")
    arguments = parser.parse_args(argv)
    if arguments.tiny + arguments.small + arguments.micro > 1:
        raise UsageError("--tiny, --small and --micro are presets: choose one")

    from modules.data.filelist import scan, split_clips, write_list
    from modules.encoders.base import encoder_dim

    configure_logging()
    width = encoder_dim(arguments.speech_encoder)
    found = scan(arguments.source_dir)
    for path, reason in found.skipped:
        logger.warning("%s: %s, left out", path, reason)
    train, validation = split_clips(found.clips, arguments.seed)
    speakers = _write_configs(arguments, width, list(found.clips))
    write_list(arguments.train_list, train)
    write_list(arguments.val_list, validation)

    for speaker, clips in found.clips.items():
        kept = sum(clip in set(validation) for clip in clips)
        minutes = found.seconds[speaker] / 60
        print(f"{speaker}: id {speakers[speaker]}, {len(clips)} clips, {minutes:.1f} min, {kept} for validation")
    print(f"{arguments.train_list}: {len(train)} clips · {arguments.val_list}: {len(validation)} clips")
    print(next_step("python preprocess_hubert_f0.py"))
    return 0


def _write_configs(arguments, width: int, speakers: list[str]) -> dict[str, int]:
    """Writes both configuration files and returns the speakers' ids."""
    from modules.config.io import parse_config
    from modules.config.presets import preset_values

    path = Path("configs/config.json")
    old = _existing(path)
    ids = _assign_ids(speakers, old)
    preset = next((name for name in ("tiny", "small", "micro") if getattr(arguments, name)), "base")
    values = preset_values(preset, arguments.speech_encoder, width)
    values["model"].update({"n_speakers": max(ids.values()) + 1, "vol_embedding": arguments.vol_aug})
    values.setdefault("train", {})["vol_aug"] = arguments.vol_aug
    values["data"]["training_files"] = arguments.train_list.as_posix()
    values["data"]["validation_files"] = arguments.val_list.as_posix()
    if arguments.tf_flow:
        values["model"].update({"use_transformer_flow": True, "flow_share_parameter": True})
    new = parse_config({**values, "spk": ids}).model_dump(mode="json")
    _save_json(path, _keep_edits(path, old, new))
    _write_diffusion(arguments, preset, width, ids)
    return ids


def _existing(path: Path) -> dict | None:
    """The config that is there, or None; one that cannot be read is set aside under another name."""
    from modules.config.io import load_config, to_plain

    if not path.exists():
        return None
    try:
        return to_plain(load_config(path))
    except ConfigError as error:
        logger.warning("%s. It was set aside as %s and is written anew", error, _back_up(path))
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


def _keep_edits(path: Path, old: dict | None, new: dict) -> dict:
    """The old config with the new speakers and lists, where both describe the same network; else the new one."""
    from modules.config.presets import DECIDED_MODEL_KEYS

    if old is None:
        return new
    changed = [key for key in DECIDED_MODEL_KEYS if old["model"][key] != new["model"][key]]
    if changed:
        what = ", ".join(f"{key} {old['model'][key]} -> {new['model'][key]}" for key in changed[:4])
        logger.warning("%s describes another network now (%s); the old one is kept as %s", path, what, _back_up(path))
        return new
    kept = {**old, "spk": new["spk"], "model": {**old["model"], "n_speakers": new["model"]["n_speakers"]}}
    lists = {key: new["data"][key] for key in ("training_files", "validation_files")}
    kept["data"] = {**old["data"], **lists}
    return kept


def _write_diffusion(arguments, preset: str, width: int, ids: dict[str, int]) -> None:
    """Writes configs/diffusion.yaml; all that encoder and speakers do not decide stays as it is."""
    from modules.config.diffusion import (
        dump_diffusion_config,
        load_diffusion_config,
        parse_diffusion_config,
        save_diffusion_config,
    )
    from modules.config.presets import DIFFUSION_PRESETS

    path = Path("configs/diffusion.yaml")
    config = None
    if path.exists():
        try:
            config = load_diffusion_config(path)
        except ConfigError as error:
            logger.warning("%s. It was set aside as %s and is written anew", error, _back_up(path))
    if config is None:
        config = parse_diffusion_config(DIFFUSION_PRESETS[preset])
    config.data.encoder, config.data.encoder_out_channels = arguments.speech_encoder, width
    config.data.training_files = arguments.train_list.as_posix()
    config.data.validation_files = arguments.val_list.as_posix()
    config.model.n_spk, config.spk = max(ids.values()) + 1, ids
    if not path.exists() or path.read_text("utf-8") != dump_diffusion_config(config):
        save_diffusion_config(config, path)


def _save_json(path: Path, values: dict) -> None:
    from modules.config.io import parse_config, save_config

    config = parse_config(values, path)
    if not path.exists() or values != _plain(path):
        save_config(config, path)


def _plain(path: Path) -> dict:
    from modules.config.io import read_json

    return read_json(path)


def _back_up(path: Path) -> Path:
    """Renames a file to the next free `NAME.bak-N`."""
    number = 1
    while (backup := path.with_name(f"{path.name}.bak-{number}")).exists():
        number += 1
    return path.rename(backup)


if __name__ == "__main__":
    run(main)
