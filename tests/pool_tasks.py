"""What the pool's tests send to worker processes: spawned workers import it by name."""

import os
import time

_loaded = None


def load(value):
    global _loaded
    if value == "broken":
        raise ValueError("no such model")
    _loaded = value


def square(number):
    if number == 13:
        raise ArithmeticError("thirteen")
    if number == 99:
        os._exit(1)
    return number * number, _loaded, os.getpid(), os.environ.get("OMP_NUM_THREADS")


def sleep(seconds):
    time.sleep(seconds)


def size_and_speaker(dataset) -> tuple[int, int]:
    """Length of a dataset that has come from another process, and the speaker of its first item."""
    from modules.data.dataset import Draw

    return len(dataset), dataset[Draw(0, 1)].speaker
