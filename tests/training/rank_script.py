"""What the tests of the launcher start: `rank_script.py FOLDER WORD` does what WORD says; it leaves notes in FOLDER.

`rank_script.py FOLDER launch WORD` launches that on two CPU devices.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def note(folder: Path, name: str, what: object) -> None:
    """Writes FOLDER/NAME as a whole."""
    temporary = folder / f".{name}.{os.getpid()}"
    temporary.write_text(json.dumps(what), "utf-8")
    temporary.replace(folder / name)


def deafen(folder: Path) -> int:
    """Notes signals and goes on."""
    heard = []

    def hear(number: int, _: object) -> None:
        heard.append(number)
        note(folder, f"heard{os.environ['RANK']}", heard)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hear)
    note(folder, f"ready{os.environ['RANK']}", os.getpid())
    while True:
        time.sleep(0.1)


def meet(group, folder: Path) -> int:
    """Asks the group everything once."""
    import torch

    rank = group.rank
    state = torch.tensor([rank, 255, 7], dtype=torch.uint8)
    answers = {
        "rank": [rank, group.world_size, group.is_main, str(group.device)],
        "any": [group.any(False), group.any(rank == 1), group.any(True)],
        "mean": group.mean(torch.tensor([[1.0 + rank, -4.0 * rank]], requires_grad=True)).tolist(),
        "mean_of_halves": str(group.mean(torch.tensor([1.0], dtype=torch.bfloat16))),
        "lowest": [group.lowest(5 - rank), group.lowest(2**40 + rank)],
        "bytes": [tensor.tolist() for tensor in group.gather_bytes(state)],
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }
    if rank == 1:
        time.sleep(0.3)
        note(folder, "late", None)
    group.barrier()
    answers["the late one was waited for"] = (folder / "late").exists()
    group.leave()
    note(folder, f"answers{rank}", answers)
    return 0


def train(group, folder: Path) -> int:
    """Goes on until told to stop, as a training does."""
    from modules.training.guards import StopRequest

    with StopRequest() as stop:
        note(folder, f"ready{group.rank}", os.getpid())
        while not group.any(stop.requested):
            time.sleep(0.01)
        group.barrier()
    note(folder, f"saved{group.rank}", None)
    group.leave()
    return 130


def fail(group) -> int:
    """Rank 1 ends with code 2; rank 0 would wait for ever."""
    from modules.errors import UserError

    if group.rank == 1:
        raise UserError("one thing is wrong")
    group.barrier()
    return 0


def die(group) -> int:
    """Rank 1 is killed; rank 0 looks at nothing and would go on for ever."""
    if group.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    while True:
        time.sleep(0.1)


def main(argv: list[str] | None = None) -> int:
    """Does what the words say."""
    folder, word, *rest = argv or sys.argv[1:]
    if word == "deafen":
        return deafen(Path(folder))
    from modules.training.distributed import join
    from modules.training.launch import launch, training_devices

    if word == "launch":
        return launch(Path(__file__), [folder, *rest], training_devices("cpu,cpu", None))
    group = join("cpu")
    actions = {"meet": meet, "train": train}
    return actions[word](group, Path(folder)) if word in actions else {"fail": fail, "die": die}[word](group)


if __name__ == "__main__":
    from modules.cli import run

    run(main)
