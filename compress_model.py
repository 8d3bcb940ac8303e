"""Makes a voice small enough to publish: without what only training needs, and on demand in half precision.

Reads a G_STEP.pth (or .safetensors) and the config of its voice: the one stored in the file, else the config.json
beside it, else configs/config.json; -c names another. Writes one file in so-vits-svc's layout, without posterior
encoder and optimizer moments, or bare tensors where the output ends in .safetensors. A voice whose weights are averaged
keeps the averages. The voice sings as before; training cannot go on from it.

Example: python compress_model.py -i logs/44k/G_8000.pth -hf
"""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.cli import configure_logging, make_parser, next_step, run
from modules.errors import CheckpointError, ConfigError
from modules.files import atomic_path, check_output

if TYPE_CHECKING:
    import torch

    from modules.config.schema import Config

    Tensors = dict[str, torch.Tensor]

logger = logging.getLogger(__name__)

_TRAINING_ONLY = "enc_q"
_LEARNING_RATE = 0.0001  # what so-vits-svc writes, whatever the run's was
_KEPT = ("config", "card", "f0_histograms")  # what our checkpoints say of the voice
_SUFFIXES = (".pth", ".pt", ".safetensors")


def main(argv: list[str] | None = None) -> int:
    """Writes the small model; returns the exit code."""
    parser = make_parser(__file__, __doc__)
    add = parser.add_argument
    add("-c", "--config", type=Path, metavar="FILE", help="config.json of the voice (default: see above)")
    add("-i", "--input", type=Path, required=True, metavar="FILE", help="model to compress")
    add("-o", "--output", type=Path, metavar="FILE", help="model to write (default: INPUT_release[_half] beside it)")
    add("-hf", "--half", action="store_true", help="store numbers in 16 bits: half the size")
    add("--overwrite", action="store_true", help="replace the output where it exists; never the input")
    arguments = parser.parse_args(argv)
    source, half = arguments.input, arguments.half
    output = arguments.output or source.with_name(f"{source.stem}_release{'_half' if half else ''}{source.suffix}")
    check_output(output, [source], arguments.overwrite, _SUFFIXES)

    configure_logging()
    content, described = compress(source, arguments.config, half)
    write(output, content)
    before, after = (path.stat().st_size / 1e6 for path in (source, output))
    print(f"{source}: {before:.1f} MB")
    print(f"Model: {output}: {after:.1f} MB")
    config, where = described
    beside = f' -c "{where.as_posix()}"' if where is not None else ""
    speaker = next(iter(config.spk), "SPEAKER")
    print(next_step(f'python inference_main.py -m "{output.as_posix()}"{beside} -n SONG.wav -s "{speaker}"'))
    return 0


def compress(path: Path, config_path: Path | None, half: bool) -> tuple[dict[str, Any], tuple["Config", Path | None]]:
    """What is to be written, and the config with its path (None for the one in the file).

    Args:
        path: the model.
        config_path: its config, or None to look for it.
        half: whether floating tensors become float16.

    Raises:
        CheckpointError: it cannot be read, is no voice, does not fit its config, or has numbers beyond float16's.
        ConfigError: there is no config, or it is wrong.
    """
    from models import build_synthesizer
    from modules.checkpoint import check_whole, load_weights
    from modules.config.fit import explain_mismatch
    from modules.model_files import voice_weights

    content = load_weights(path)
    check_whole(path)
    weights = voice_weights(content, path)
    about = _about(content, path)
    config, where = _find_config(path, config_path, about.get("config"))
    optimizer, wanted = _untrained(build_synthesizer, config)
    problem = explain_mismatch(weights, wanted, str(where or "the config in the file"))
    if problem:
        raise CheckpointError(f"{path}: {problem}")
    kept = {name: tensor for name, tensor in weights.items() if _TRAINING_ONLY not in name}
    if len(kept) == len(weights):
        logger.info("%s: is compressed already (it has no posterior encoder)", path)
    if half:
        kept = {name: _halve(name, tensor, path) for name, tensor in kept.items()}
    model = {"model": kept, "iteration": 0, "optimizer": optimizer, "learning_rate": _LEARNING_RATE}
    return {**model, **about}, (config, where)


def write(output: Path, content: dict[str, Any]) -> None:
    """Writes what `compress` made, in the format that the name says.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written.
    """
    from modules.checkpoint import save_weights

    if output.suffix.lower() != ".safetensors":
        save_weights(output, content)
        return
    from safetensors import SafetensorError
    from safetensors.torch import save

    # Plain copies: a tensor with two names may not share its memory there.
    tensors = {name: tensor.clone().contiguous() for name, tensor in content["model"].items()}
    metadata = {key: json.dumps(content[key], ensure_ascii=False) for key in _KEPT if key in content}
    try:
        with atomic_path(output) as temporary:  # by us: safetensors makes files that others may not read
            temporary.write_bytes(save(tensors, {"format": "pt", **metadata}))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{output}: could not be written ({error}). Free some disk space.") from None


def _about(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """What a file of ours says of its voice, beside the weights."""
    if path.suffix == ".safetensors":
        from modules.checkpoint import safetensors_metadata

        content = safetensors_metadata(path)
    return {key: content[key] for key in _KEPT if content.get(key)}


def _find_config(path: Path, given: Path | None, stored: Any) -> tuple["Config", Path | None]:
    """The voice's config, and where it lies; None for the one inside the model.

    Raises:
        ConfigError: there is none, or it is wrong.
    """
    from modules.config.io import load_config, parse_config

    if given is not None:
        return load_config(given), given
    if isinstance(stored, dict):
        return parse_config(stored), None
    beside = path.with_name("config.json")
    for candidate in (beside, Path("configs/config.json")):
        if candidate.is_file():
            return load_config(candidate), candidate
    raise ConfigError(f"{beside}: no such file, and the model carries no config. Give -c the config.json of the voice.")


def _untrained(build: Any, config: "Config") -> tuple[dict[str, Any], "Tensors"]:
    """A fresh optimizer's state and the tensors that conversion needs; no numbers are allocated."""
    import torch

    with torch.device("meta"):
        network = build(config)
    train = config.train
    optimizer = torch.optim.AdamW(network.parameters(), train.learning_rate, betas=tuple(train.betas), eps=train.eps)
    wanted = {name: tensor for name, tensor in network.state_dict().items() if _TRAINING_ONLY not in name}
    return optimizer.state_dict(), wanted


def _halve(name: str, tensor: "torch.Tensor", path: Path) -> "torch.Tensor":
    import torch

    if not tensor.is_floating_point():
        return tensor
    halved = tensor.half()
    if not torch.isfinite(halved).all() and torch.isfinite(tensor).all():
        raise CheckpointError(
            f"{path}: {name} has numbers up to {float(tensor.abs().max()):.3g}, and 16 bits end at 65504. "
            "Leave -hf out."
        )
    return halved


if __name__ == "__main__":
    run(main)
