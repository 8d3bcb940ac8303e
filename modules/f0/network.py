"""What predictors with a file of weights share: reading the weights, filling the network, the way to its rate."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from modules.audio.torchaudio_compat import import_torchaudio
from modules.errors import CheckpointError

# Zero crossings of the resampling filter to each side; so-vits-svc resamples this sharply for its pitch networks.
_FILTER_WIDTH = 128


def read_state(content: dict) -> dict[str, torch.Tensor]:
    """The state dictionary in a checkpoint: its `model` or all of it, less the `module.` that parallel runs add."""
    state = content.get("model", content)
    state = state if isinstance(state, dict) else {}
    tensors = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
    # Copied: the file is mapped into memory, and somebody may replace it while this runs.
    return {key.removeprefix("module."): value.clone() for key, value in tensors.items()}


def fill_network(build: Callable[[], nn.Module], state: dict[str, torch.Tensor], path: Path, name: str) -> nn.Module:
    """A network in float32 with the weights of a file, ready to run, on the CPU.

    Args:
        build: makes it, of the sizes that the state shows.
        state: tensors by name; all that the network has must be there, and no others.
        path: of the file, for errors.
        name: that `pretrain/download.py` knows the file by.

    Raises:
        CheckpointError: the tensors are not this network's.
    """
    try:
        with torch.device("meta"):
            network = build()
        network.load_state_dict(state, assign=True)
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path}: not the weights of {name} ({reason}). Get the file with: python pretrain/download.py {name}"
        ) from None
    return network.float().eval().requires_grad_(False)


def make_resampler(rate: int, native_rate: int, device: torch.device) -> nn.Module:
    """A module that brings waves (..., T) from one rate to another, on `device`."""
    transform = import_torchaudio().transforms.Resample(rate, native_rate, lowpass_filter_width=_FILTER_WIDTH)
    return transform.to(device)
