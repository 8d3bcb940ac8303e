"""Blends trained voices into one by averaging their weights; they must have one architecture and one encoder.

Reads two or more G_STEP.pth or .safetensors. Writes one .pth: everything in it is the first model's, its weights are
the blend, and its optimizer starts afresh. Use it with the config.json of the first model.

-m convex: each share is softmax(weight / 100), so shares sum to 1 and no model vanishes: 60 40 gives 0.55 and 0.45.
-m linear: each share is weight / 100 as it stands: 60 40 gives 0.6 and 0.4.

Example: python mix_models.py -i logs/a/G_8000.pth logs/b/G_8000.pth -w 60 40 -m linear -o mixed.pth
"""

import argparse
import logging
import math
from pathlib import Path
from typing import Any

from modules.cli import configure_logging, make_parser, next_step, run
from modules.errors import CheckpointError, UsageError
from modules.files import check_inputs, check_output

logger = logging.getLogger(__name__)

# What the shapes of tensors do not show.
_MUST_AGREE = ("spk", "model.speech_encoder", "data.sampling_rate", "data.hop_length")


def main(argv: list[str] | None = None) -> int:
    """Writes the blended model; returns the exit code."""
    arguments = make_arguments().parse_args(argv)
    inputs, output = arguments.input, arguments.output
    shares = shares_of(arguments.weights, len(inputs), arguments.mode)
    check_output(output, inputs, arguments.overwrite)
    check_inputs(*(("-i/--input", path) for path in inputs))

    from modules.weights.checkpoint import save_weights

    configure_logging()
    if arguments.mode == "linear" and abs(sum(shares) - 1) > 1e-6:
        logger.warning("the weights sum to %g, not 100: the voice may be distorted", 100 * sum(shares))
    content = blend(inputs, shares)
    save_weights(output, content)
    for path, share in zip(inputs, shares):
        print(f"{share:.4f} of {path}")
    print(f"Model: {output}")
    config, beside = content.get("config"), inputs[0].with_name("config.json")
    speakers = config.get("spk") if isinstance(config, dict) else None
    speaker = next(iter(speakers), "SPEAKER") if isinstance(speakers, dict) else "SPEAKER"
    flag = ["-c", beside.as_posix()] if beside.is_file() else []
    print(next_step("python inference_main.py -m", output.as_posix(), *flag, "-n", "SONG.wav", "-s", speaker))
    return 0


def make_arguments() -> argparse.ArgumentParser:
    """The flags, as --help and the web page show them."""
    parser = make_parser(__file__, __doc__)
    add = parser.add_argument
    add("-i", "--input", type=Path, nargs="+", required=True, metavar="FILE", help="models to blend, two or more")
    add("-w", "--weights", type=float, nargs="+", required=True, metavar="PERCENT", help="one for each model")
    add("-m", "--mode", choices=("convex", "linear"), default="convex", help="how weights become shares")
    add("-o", "--output", type=Path, default=Path("output.pth"), metavar="FILE", help="model to write")
    add("--overwrite", action="store_true", help="replace the output where it exists; never an input")
    return parser


def shares_of(weights: list[float], n_models: int, mode: str) -> list[float]:
    """The factor of each model: softmax(weight / 100) for `convex`, weight / 100 for `linear`."""
    if n_models < 2:
        raise UsageError(f"-i/--input names {n_models} model; a blend needs at least two")
    if len(weights) != n_models:
        raise UsageError(f"-w/--weights has {len(weights)} values for {n_models} models; give one for each")
    if wrong := [weight for weight in weights if not math.isfinite(weight)]:
        raise UsageError(f"-w/--weights: {wrong[0]} is not a finite number; give percents, for example 60 40")
    if mode == "linear":
        return [weight / 100 for weight in weights]
    # Only differences count in a softmax; with the largest at 0 nothing overflows.
    powers = [math.exp((weight - max(weights)) / 100) for weight in weights]
    return [power / sum(powers) for power in powers]


def blend(paths: list[Path], shares: list[float]) -> dict[str, Any]:
    """The first voice with the weighted sum of all under 'model'; `shares` are the weights.

    Floating tensors are summed in float32 and get the first model's type back; others are the first model's.
    """
    import torch

    from modules.weights.state_dict import fit

    first, *others = paths
    content = _read_model(first)
    model, config, optimizer = content["model"], content.get("config"), content.get("optimizer")
    totals = {
        name: tensor.to(torch.promote_types(tensor.dtype, torch.float32)) * shares[0]
        for name, tensor in model.items()
        if tensor.is_floating_point()
    }
    # One file after the other is mapped into memory, which holds the sum and one model.
    for path, share in zip(others, shares[1:]):
        other = _read_model(path)
        hint = "Blend models of one architecture, all compressed or none."
        found = fit(other["model"], model, path, hint, f"the first model, {first}", no_extra=("",))
        _check_configs(first, config, path, other.get("config"))
        for name, total in totals.items():
            total.add_(found[name].to(total.dtype), alpha=share)
        differing = [n for n in model if n not in totals and model[n].tolist() != found[n].tolist()]
        if differing:
            logger.info("%s: not blended, kept as in %s: %s", path, first, ", ".join(differing[:4]))
    blended = dict(model)
    for name, total in totals.items():
        blended[name] = total.to(model[name].dtype)
        if not torch.isfinite(blended[name]).all():
            raise CheckpointError(f"the blend of {name} is not finite: use smaller weights, or check the models")
    if isinstance(optimizer, dict) and "param_groups" in optimizer:
        optimizer = {**optimizer, "state": {}}  # its moments belong to weights that are no more
    own = {"model": blended, "optimizer": optimizer}
    # All keys of a voice file in so-vits-svc 4.1, also where the first model lacks one.
    return {"model": blended, "iteration": 0, "optimizer": optimizer, "learning_rate": 0.0001, **content, **own}


def _read_model(path: Path) -> dict[str, Any]:
    import torch

    from modules.weights.checkpoint import load_checkpoint
    from modules.weights.families import voice_weights

    content = load_checkpoint(path)
    about = {key: value for key, value in content.items() if not isinstance(value, torch.Tensor)}
    return {**about, "model": voice_weights(content, path)}


def _check_configs(first: Path, wanted: Any, path: Path, found: Any) -> None:
    """Compares the configs that our checkpoints carry; those of other tools have none."""
    if not (isinstance(wanted, dict) and isinstance(found, dict)):
        return
    for name in _MUST_AGREE:
        section, _, key = name.rpartition(".")
        before, now = ((config.get(section) or {} if section else config).get(key) for config in (wanted, found))
        if before != now:
            text = f"{path}: {name} is {str(now)[:200]}, but {str(before)[:200]} in {first}."
            raise CheckpointError(f"{text} Blend models of the same speakers and the same encoder.")


if __name__ == "__main__":
    run(main)
