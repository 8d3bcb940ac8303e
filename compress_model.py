"""Makes a voice small enough to publish, or a base model that others train on.

Reads a G_STEP.pth (or .safetensors) and the config of its voice: the one stored in the file, else the config.json
beside it, else configs/config.json; -c names another. Writes one file in so-vits-svc's layout, without posterior
encoder and optimizer moments, or bare tensors where the output ends in .safetensors. A voice whose weights are averaged
keeps the averages. Conversion sounds as before; training cannot go on from it.
With --base it reads D_STEP.pth too and writes G_0.pth and D_0.pth, with all that training needs, and config.json.

Example: python compress_model.py -i logs/44k/G_8000.pth -hf
Example: python compress_model.py -i logs/44k/G_8000.pth --base pretrain/alto --int8
"""

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.cli import configure_logging, make_parser, next_step, run
from modules.errors import CheckpointError, ConfigError, UsageError, reason_of
from modules.files import atomic_path, check_inputs, check_output

if TYPE_CHECKING:
    from modules.config.schema import Config

logger = logging.getLogger(__name__)

_LEARNING_RATE = 0.0001  # what so-vits-svc writes, whatever the run's was
_KEPT = ("config", "card", "f0_histograms")  # what our checkpoints say of the voice
_SUFFIXES = (".pth", ".pt", ".safetensors")


def main(argv: list[str] | None = None) -> int:
    """Writes the small model; returns the exit code."""
    arguments = make_arguments().parse_args(argv)
    source, shrink = arguments.input, "half" if arguments.half else "int8" if arguments.int8 else ""
    configure_logging()
    if arguments.base is not None:
        if arguments.output is not None:
            raise UsageError("--base names the folder to write to; leave -o out")
        return _make_base(source, arguments.config, shrink, arguments.base, arguments.overwrite)
    if arguments.output is None and source.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"-i {source}: expected a model, whose name ends in {' or '.join(_SUFFIXES)}")
    output = arguments.output or source.with_name(f"{source.stem}_release{shrink and '_'}{shrink}{source.suffix}")
    configs = [arguments.config] if arguments.config is not None else []
    check_output(output, [source, *configs], arguments.overwrite, _SUFFIXES)
    check_inputs(("-i/--input", source), *(("-c/--config", path) for path in configs))
    content, (config, where) = compress(source, arguments.config, shrink)
    write(output, content)
    print(f"{source}: {source.stat().st_size / 1e6:.1f} MB\nModel: {output}: {output.stat().st_size / 1e6:.1f} MB")
    beside = ["-c", where.as_posix()] if where is not None else []
    speaker = next(iter(config.spk), "SPEAKER")
    print(next_step("python inference_main.py -m", output.as_posix(), *beside, "-n", "SONG.wav", "-s", speaker))
    return 0


def make_arguments() -> argparse.ArgumentParser:
    """The flags, as --help and the web page show them."""
    parser = make_parser(__file__, __doc__)
    add = parser.add_argument
    add("-c", "--config", type=Path, metavar="FILE", help="config.json of the voice (default: see above)")
    add("-i", "--input", type=Path, required=True, metavar="FILE", help="model to compress")
    add("-o", "--output", type=Path, metavar="FILE", help="model to write (default: INPUT_release[_half|_int8])")
    add("--base", type=Path, metavar="FOLDER", help="write a base model into this folder, for train.py --base")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("-hf", "--half", action="store_true", help="store numbers in 16 bits: half the size")
    size.add_argument("--int8", action="store_true", help="matrices in 8 bits: a fifth; only this toolkit reads it")
    add("--overwrite", action="store_true", help="replace the output where it exists; never the input")
    return parser


def _make_base(path: Path, config_path: Path | None, shrink: str, folder: Path, overwrite: bool) -> int:
    if not path.name.startswith("G"):
        raise UsageError(f"--base with -i {path}: expected a G_STEP.pth, with its D_STEP.pth beside it")
    d_path = path.with_name("D" + path.name[1:])
    targets = [folder / name for name in ("G_0.pth", "D_0.pth", "config.json")]
    for target in targets:
        check_output(target, [path, d_path], overwrite, (target.suffix,))
    check_inputs(("-i/--input", path), ("the discriminators beside it,", d_path))

    from modules.config.io import save_config
    from modules.files import make_folder
    from modules.weights.checkpoint import load_weights, save_together
    from modules.weights.state_dict import tensors_of

    g, (config, _) = compress(path, config_path, shrink, for_training=True)
    found = tensors_of(load_weights(d_path))
    if not any(name.startswith("discriminators.") for name in found):
        raise CheckpointError(f"{d_path}: holds no discriminators. Give the D_STEP.pth of {path.name}")
    d = {"model": _shrunk(found, shrink, d_path), "iteration": 0, "optimizer": None, "learning_rate": _LEARNING_RATE}
    make_folder(folder)
    save_together({targets[0]: g, targets[1]: d})
    save_config(config, targets[2])
    for target in targets:
        print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")
    print(next_step("python train.py -c configs/config.json -m NAME --base", folder.as_posix()))
    return 0


def compress(
    path: Path, config_path: Path | None, shrink: str = "", for_training: bool = False
) -> tuple[dict[str, Any], tuple["Config", Path | None]]:
    """What is to be written, and the config with its path (None for the one in the file).

    `shrink` is "half", "int8" or "" for tensors as they are; `for_training` keeps the posterior encoder.
    """
    import torch

    from models import build_synthesizer
    from modules.device import WithoutDrawing
    from modules.weights.checkpoint import load_checkpoint
    from modules.weights.families import fit_voice, voice_weights

    content = load_checkpoint(path)
    weights = voice_weights(content, path)
    about = {key: content[key] for key in _KEPT if content.get(key)}
    config, where = _find_config(path, config_path, about.get("config"))
    with WithoutDrawing():
        network = build_synthesizer(config)
    rate, betas = config.train.learning_rate, tuple(config.train.betas)
    optimizer = torch.optim.AdamW(network.parameters(), rate, betas=betas, eps=config.train.eps).state_dict()

    kept, needed = (
        {name: tensor for name, tensor in tensors.items() if for_training or "enc_q" not in name}
        for tensors in (weights, network.state_dict())
    )
    fit_voice(weights, needed, path, where or "the config in the file")
    if len(kept) == len(weights) and not for_training:
        logger.info("%s: is compressed already (it has no posterior encoder)", path)
    layout = {"model": _shrunk(kept, shrink, path), "iteration": 0, "optimizer": optimizer}
    return {**layout, "learning_rate": _LEARNING_RATE, **about}, (config, where)


def write(output: Path, content: dict[str, Any]) -> None:
    """Writes what `compress` made, in the format that the name says."""
    from modules.weights.checkpoint import CHECKSUM, checksum_of, save_weights

    if output.suffix.lower() != ".safetensors":
        save_weights(output, content)
        return
    from safetensors import SafetensorError
    from safetensors.torch import save

    # Plain copies: a tensor with two names may not share its memory there.
    tensors = {name: tensor.clone().contiguous() for name, tensor in content["model"].items()}
    metadata = {key: json.dumps(content[key], ensure_ascii=False) for key in _KEPT if key in content}
    metadata[CHECKSUM] = checksum_of(tensors)
    try:
        with atomic_path(output) as temporary:  # by us: safetensors makes files that others may not read
            temporary.write_bytes(save(tensors, {"format": "pt", **metadata}))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{output}: could not be written ({reason_of(error, output)}). Free some disk space."
        ) from None


def _find_config(path: Path, given: Path | None, stored: Any) -> tuple["Config", Path | None]:
    """The voice's config, and where it lies; None for the one inside the model."""
    from modules.config.io import load_config, parse_config

    if given is None and isinstance(stored, dict):
        return parse_config(stored), None
    beside = path.with_name("config.json")
    found = given or next(filter(Path.is_file, (beside, Path("configs/config.json"))), None)
    if found is None:
        text = "no such file, and the model carries no config. Give -c the config.json of the voice."
        raise ConfigError(f"{beside}: {text}")
    return load_config(found), found


def _shrunk(tensors: dict[str, Any], shrink: str, path: Path) -> dict[str, Any]:
    from modules.weights.int8 import halve, pack

    try:
        return {"": dict, "half": halve, "int8": pack}[shrink](tensors)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}. Leave -hf or --int8 out.") from None


if __name__ == "__main__":
    run(main)
