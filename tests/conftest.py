"""What all tests share: the repository on the path, one thread, a fixed seed."""

import gc
import logging
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from small_encoders import write_small_encoders

torch.set_num_threads(1)


def pytest_collection_finish():
    """What is there before the first test stays, and no collection of garbage looks through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """A test sees what it wrote whether or not that has reached the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def small_encoders(tmp_path_factory) -> Path:
    """A folder with the files that `write_small_encoders` writes; tests only read them."""
    folder = tmp_path_factory.mktemp("small_encoders")
    write_small_encoders(folder)
    return folder


@pytest.fixture(autouse=True)
def fixed_seed():
    """Every test starts from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def fresh_logging():
    """The console that a script's `main()` sets up does not go on into the next test."""
    yield
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if getattr(handler, "_ours", False)]:
        root.removeHandler(handler)
        handler.close()
