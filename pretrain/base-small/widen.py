"""Makes the decoder of a base model wider. At first the wide one says what the narrow one says, up to rounding.

Reads G_0.pth, D_0.pth and config.json of one folder and writes them to another. New channels hear what an old one does,
with other signs, and nothing listens to them yet: training on decides what they are for.

Example: python pretrain/base-small/widen.py pretrain/base-small wide --channels 384

Source: after Chen, Goodfellow and Shlens, "Net2Net", 2016, arXiv:1511.05641, section 2.2, where new channels are copies
that share the weights of their reader.
"""

import argparse
import shutil
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models import build_synthesizer
from modules.cli import run
from modules.config.io import load_config, save_config
from modules.weights.checkpoint import load_weights, save_weights

SEED = 1234


def main(argv: list[str] | None = None) -> int:
    """Writes the folder of the wide model; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="folder of the base model")
    parser.add_argument("output", type=Path, help="folder to write, which must not be there")
    parser.add_argument("--channels", type=int, default=384, help="upsample_initial_channel (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.output.exists():
        parser.error(f"{args.output}: is there already; name another folder")
    config, content = load_config(args.base / "config.json"), load_weights(args.base / "G_0.pth")
    if args.channels <= config.model.upsample_initial_channel:
        parser.error(f"--channels {args.channels}: has {config.model.upsample_initial_channel} already")
    narrow = build_synthesizer(config)
    narrow.load_state_dict(content["model"])
    config.model.upsample_initial_channel = args.channels
    wide = build_synthesizer(config)
    rest = {name: value for name, value in content["model"].items() if not name.startswith("dec.")}
    wide.load_state_dict(rest, strict=False)
    widen(narrow.dec, wide.dec)

    args.output.mkdir(parents=True)
    stored = {**content["config"], "model": {**content["config"]["model"], "upsample_initial_channel": args.channels}}
    save_weights(args.output / "G_0.pth", {**content, "config": stored, "model": wide.state_dict()})
    shutil.copyfile(args.base / "D_0.pth", args.output / "D_0.pth")
    save_config(config, args.output / "config.json")
    return 0


@torch.no_grad()
def widen(narrow: nn.Module, wide: nn.Module) -> None:
    """Gives `wide` what `narrow` computes: a network of the same modules, with more channels."""
    draws = torch.Generator().manual_seed(SEED)
    for (name, old), new in zip(narrow.named_modules(), wide.modules(), strict=True):
        own = dict(old.named_parameters(recurse=False))
        if "bias" in own:
            new.bias.copy_(old.bias[_sources(len(new.bias), len(old.bias))])
        if "weight_v" in own:
            turned = isinstance(old, nn.ConvTranspose1d)
            weight = _wider(old.effective_weight(), new.weight_v.shape, turned, draws)
            new.weight_v.copy_(weight)
            new.weight_g.copy_(torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True))
        elif "weight" in own:
            new.weight.copy_(_wider(old.weight, new.weight.shape, False, draws))
        elif set(own) - {"bias"}:
            raise ValueError(f"{name}: cannot be widened: {sorted(own)}")


def _wider(weight: torch.Tensor, shape: torch.Size, turned: bool, draws: torch.Generator) -> torch.Tensor:
    """A weight (out, in, ...) of that `shape`, or (in, out, ...) where it is `turned`: old outputs do not hear new
    inputs; new outputs hear all, as an old one does but for the signs."""
    if turned:
        return _wider(weight.transpose(0, 1), (shape[1], shape[0], *shape[2:]), False, draws).transpose(0, 1)
    if weight.shape == shape:
        return weight
    n_out, n_in = weight.shape[:2]
    grown = weight[_sources(shape[0], n_out)][:, _sources(shape[1], n_in)]
    signs = torch.randint(0, 2, (*grown.shape[:2], 1), generator=draws) * 2 - 1
    grown[n_out:] *= signs[n_out:] * (n_in / shape[1]) ** 0.5
    grown[:n_out, n_in:] = 0
    return grown


def _sources(n_new: int, n_old: int) -> torch.Tensor:
    """The old channel that each of the new ones is made of."""
    return torch.arange(n_new) % n_old


if __name__ == "__main__":
    run(main)
