"""What all tests share: the repository on the path, one thread, a fixed seed."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_seed():
    """Every test starts from the same random state."""
    torch.manual_seed(0)
