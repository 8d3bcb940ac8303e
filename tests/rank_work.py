"""What the tests of ranks let them do: each function takes a folder for its notes and the group.

`rank_work.py FOLDER WORD` does it as a rank of torchrun; with `launch` behind it, it launches two ranks on the CPU.
"""

import functools
import json
import os
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ != "rank_work":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def note(folder: Path, name: str, what: object) -> None:
    """Writes FOLDER/NAME as a whole."""
    temporary = folder / f".{name}.{os.getpid()}"
    temporary.write_text(json.dumps(what), "utf-8")
    temporary.replace(folder / name)


def meet(folder: Path, group) -> int:
    """Asks the group everything once."""
    import torch

    from modules.errors import UserError
    from modules.training.distributed import FailedElsewhere, gather_random_states, raise_on_all_ranks, seed_all

    rank = group.rank
    seed_all(rank)
    answers = {
        "rank": [rank, group.world_size, group.is_main, str(group.device)],
        "lowest": [group.lowest(5 - rank), group.lowest(2**40 + rank)],
        "states": [{name: x.tolist() for name, x in state.items()} for state in gather_random_states(group)],
        "threads": torch.get_num_threads(),
        "raised": [],
    }
    for wrong in ([], [0], [1], [0, 1]):
        try:
            with raise_on_all_ranks(group):
                if rank in wrong:
                    raise UserError("mine")
            answers["raised"].append("")
        except (UserError, FailedElsewhere) as error:
            answers["raised"].append(type(error).__name__)
    if rank == 1:
        time.sleep(0.3)
        note(folder, "late", None)
    group.barrier()
    answers["the late one was waited for"] = (folder / "late").exists()
    note(folder, f"answers{rank}", answers)
    return 0


def train(folder: Path, group) -> int:
    """Goes on until told to stop, as a training does."""
    from modules.training.guards import StopRequest

    with StopRequest() as stop:
        note(folder, f"ready{group.rank}", os.getpid())
        while group.lowest(-stop.requested) == 0:
            time.sleep(0.01)
        group.barrier()
    note(folder, f"saved{group.rank}", None)
    return 130


def go_on(folder: Path, group) -> int:
    """Notes a request to stop and goes on for ever."""
    from modules.training.guards import StopRequest

    with StopRequest() as stop:
        note(folder, f"ready{group.rank}", os.getpid())
        while True:
            time.sleep(0.05)
            if stop.requested:
                note(folder, f"asked{group.rank}", None)


def fail(folder: Path, group) -> int:
    """Rank 1 ends with code 2; rank 0 would wait for ever."""
    from modules.errors import UserError

    if group.rank == 1:
        raise UserError("one thing is wrong")
    group.barrier()
    return 0


def die(folder: Path, group) -> int:
    """Rank 1 is killed; rank 0 would go on for ever, whatever it is told."""
    if group.is_main:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    group.barrier()
    if group.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    while True:
        time.sleep(0.1)


def step(folder: Path, group, batch_size: int, accumulate: int) -> None:
    """One training step on this rank's share of the clips; notes what it saw, and its gradients."""
    import torch
    from fixed_draws import FixedDraws

    from models import build_synthesizer
    from modules.config.io import load_config
    from modules.data.dataset import VoiceDataset, make_loader
    from modules.training.step import VitsStep
    from vdecoder.discriminators import MultiPeriodDiscriminator

    config = load_config("configs/config.json")
    config.train.batch_size = batch_size
    # Weights of the main rank are those of all: the others start with their own here.
    torch.manual_seed(group.rank)
    networks = build_synthesizer(config), MultiPeriodDiscriminator(channels=config.model.discriminator_channels)
    step = VitsStep(*networks, config, group.device, group)
    loader = make_loader(VoiceDataset("filelists/train.txt", config), group.device, group.rank, group.world_size)
    batches = [batch for batch, _ in zip(loader, range(accumulate))]
    with FixedDraws():
        step.run(batches)
    name = f"{group.world_size}_{batch_size}_{accumulate}"
    note(folder, f"seen_{name}_{group.rank}", sorted(path for batch in batches for path in batch.paths))
    if group.is_main:
        nets = zip("GD", networks)
        gradients = {f"{key}.{name}": p.grad for key, net in nets for name, p in net.named_parameters()}
        torch.save(gradients, folder / f"gradients_{name}.pth")


def two_steps(folder: Path, group) -> int:
    """A step of one batch of two clips a rank, and a step of two batches of one."""
    step(folder, group, 2, 1)
    step(folder, group, 1, 2)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Does what the words say."""
    from modules.training.launch import run_on_devices

    folder, word, *launched = sys.argv[1:]
    work = functools.partial(globals()[word], Path(folder))
    return run_on_devices(work, "cpu,cpu" if launched else None, "cpu")


if __name__ == "__main__":
    from modules.cli import run

    run(main)
