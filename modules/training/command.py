"""What the commands train.py and train_diff.py share: flags, the introduction of a run, and its last words."""

import argparse
import contextlib
import logging
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

from modules.cli import configure_logging
from modules.errors import DataError, UsageError, UserError
from modules.files import atomic_path, lock_folder, make_folder, remove_leftovers, set_aside

if TYPE_CHECKING:  # flags are read before torch is imported
    from torch import nn
    from torch.utils.data import DataLoader

    from modules.training.distributed import Group
    from modules.training.loop import TrainingLoop

logger = logging.getLogger(__name__)

# Names of devices that no folder can have on Windows, whatever comes behind a dot.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_DEVICES, _GPUS = re.compile(r"auto|cpu|mps|cuda(:\d+)?"), re.compile(r" *(cpu|\d+) *(, *(cpu|\d+) *)*")


def add_flags(parser: argparse.ArgumentParser, device_help: str) -> argparse.ArgumentParser:
    """Gives a parser the flags that both commands have."""
    parser.add_argument("--max_steps", type=int, help="stop after this many steps (default: the config's train.epochs)")
    parser.add_argument("-d", "--device", help=device_help)
    parser.add_argument("--gpus", help="numbers of the GPUs to train on, like 0,2 (default: all that are visible)")
    return parser


def parse_flags(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """The flags of a parser, those that both commands have verified."""
    arguments = parser.parse_args(argv)
    if arguments.max_steps is not None and arguments.max_steps < 1:
        raise UsageError(f"--max_steps {arguments.max_steps}: expected 1 or more")
    if arguments.device and not _DEVICES.fullmatch(arguments.device):
        raise UsageError(f"-d/--device {arguments.device!r}: expected cpu, cuda, cuda:1, mps or auto")
    if arguments.gpus is not None and not _GPUS.fullmatch(arguments.gpus):
        raise UsageError(f"--gpus {arguments.gpus!r}: expected numbers of GPUs, like 0,2")
    return arguments


def check_run_name(name: str) -> None:
    """Refuses a `-m/--model` that is no name of a folder below logs/ on every system."""
    parts = name.removesuffix("/").split("/")
    problem = next(filter(None, map(_name_problem, parts)), None)
    if problem or PureWindowsPath(name).drive:
        problem = problem or "names a drive"
        raise UsageError(f"-m/--model {name!r}: {problem}; expected a name like 44k, the run's folder is logs/NAME")


def _name_problem(part: str) -> str | None:
    if not part.strip():
        return "is empty or begins at the root"
    if part in (".", ".."):
        return f"leads out of its folder by {part!r}"
    if wrong := [letter for letter in part if letter in '<>:"|?*\\' or not letter.isprintable()]:
        return f"holds {wrong[0]!r}, which no name of a folder may"
    if _RESERVED.fullmatch(part) or part[-1] in ". ":
        return f"{part!r} is no name of a folder on Windows"
    return None


def check_files(*errors: UserError | None) -> None:
    """Raises what is wrong before anything heavy is loaded: the one error, or all of them as one."""
    found = [error for error in errors if error is not None]
    if len(found) > 1:
        raise UserError(" ".join(f"{str(error).rstrip('.')}." for error in found))
    if found:
        raise found[0]


def missing_list(path: str) -> DataError | None:
    """The error of a file list that is not there."""
    if Path(path).exists():
        return None
    return DataError(f"{path}: no such file. Make it with: python preprocess_flist_config.py")


@contextlib.contextmanager
def run_folder(folder: Path, log_name: str, group: "Group") -> Iterator[None]:
    """The folder of a run, made on the main rank and kept from other processes meanwhile; it gets the log."""
    from modules.training.distributed import raise_on_all_ranks

    with contextlib.ExitStack() as stack:
        with raise_on_all_ranks(group):
            if group.is_main:
                make_folder(folder)
                stack.enter_context(lock_folder(folder))
                configure_logging(folder / log_name)
                remove_leftovers(folder, recursive=False)
        yield


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
    """Keeps the config beside the checkpoints, byte for byte; another one that is there gets another name."""
    if target.is_file() and target.read_bytes() == content:
        return
    if target.exists():
        logger.info("%s: was another config, which is now %s", target, set_aside(target, copy=target.is_file()).name)
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
