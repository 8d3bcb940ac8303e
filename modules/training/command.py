"""What the commands train.py and train_diff.py share: flags, the introduction of a run, and its last words."""

import argparse
import logging
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from modules.errors import UsageError
from modules.files import atomic_path

if TYPE_CHECKING:  # flags are read before torch is imported
    from torch import nn
    from torch.utils.data import DataLoader

    from modules.training.loop import TrainingLoop

logger = logging.getLogger(__name__)


def parse_flags(parser: argparse.ArgumentParser, argv: list[str] | None, device_help: str) -> argparse.Namespace:
    """The flags of a parser and those that both commands have."""
    parser.add_argument("--max_steps", type=int, help="stop after this many steps (default: the config's train.epochs)")
    parser.add_argument("-d", "--device", help=device_help)
    parser.add_argument("--gpus", help="numbers of the GPUs to train on, like 0,2 (default: all that are visible)")
    arguments = parser.parse_args(argv)
    if arguments.max_steps is not None and arguments.max_steps < 1:
        raise UsageError(f"--max_steps {arguments.max_steps}: expected 1 or more")
    return arguments


def introduce(
    loop: "TrainingLoop", loader: "DataLoader", config_path: Path, folder: Path, least: str, networks: str
) -> None:
    """Says what is about to be trained, on what, and where; `least` is the config key of the shortest clip."""
    from modules.data.filelist import speaker_of

    data, group = loader.dataset, loop.group
    for path in data.too_short:
        logger.warning("%s: is shorter than %s and is left out", path, least)
    if loop.saved:
        logger.info("going on from %s: step %d, epoch %d", loop.saved, loop.state.step, loop.state.epoch)
    found = Counter(map(speaker_of, data.clips))
    n_steps = math.ceil(len(loader.batch_sampler) / loop.accumulate)
    logger.info("config %s, run %s, device %s", config_path, folder, group.device)
    logger.info("speakers: %s", ", ".join(f"{speaker} ({found[speaker]} clips)" for speaker in data.config.spk))
    minutes = data.n_seconds / 60
    logger.info("%d clips, %.1f minutes, %d steps per epoch; %s", len(data.clips), minutes, n_steps, networks)
    train = data.config.train
    keys = [f"train.{key} {getattr(train, key)}" for key in ("batch_size", "accumulate") if hasattr(train, key)]
    n_clips = train.batch_size * loop.accumulate * group.world_size
    processes = "1 process" if group.world_size == 1 else f"{group.world_size} processes, one for each device"
    logger.info("a step sees %d clips: %s, %s", n_clips, ", ".join(keys), processes)


def millions(net: "nn.Module") -> str:
    """The number of a network's parameters, like "12.3 M"."""
    return f"{sum(parameter.numel() for parameter in net.parameters()) / 1e6:.1f} M"


def keep_config(target: Path, content: bytes) -> None:
    """Keeps the config beside the checkpoints, byte for byte."""
    if not target.is_file() or target.read_bytes() != content:
        with atomic_path(target) as temporary:
            temporary.write_bytes(content)


def report_end(loop: "TrainingLoop", max_steps: int | None) -> int:
    """Reports a run that was stopped, or that had nothing to do; returns the exit code, 0 or 130."""
    step = loop.state.step
    if loop.stop.requested:
        kept = f"saved {loop.saved}" if loop.saved else "nothing was trained yet, nothing is saved"
        logger.info("stopped at step %d: %s; run the same command again to go on", step, kept)
        return 130
    if step == loop.first_step:
        asked = f"--max_steps {max_steps}" if max_steps else f"{loop.epochs} epochs (train.epochs)"
        logger.info("nothing to do: step %d is reached already, %s asked for", step, asked)
    return 0
