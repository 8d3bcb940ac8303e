"""Several ranks learn what one process with the whole batch would learn."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_voices import make_clip, tiny_config

from modules.config.io import save_config
from modules.data.filelist import write_list
from modules.training.launch import launch
from modules.weights.checkpoint import load_weights

SCRIPT = Path(__file__).with_name("rank_training.py")
CPU = torch.device("cpu")
# Sums of floats in another order: what differs is rounding of the largest terms.
TOLERANCE = 1e-4


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """Four clips of the same length, so that every frame counts alike in a batch and in its halves."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SVC_TIMEOUT_SECONDS", "60")
    clips = [make_clip(Path("dataset/44k/alto") / f"clip {n}.wav", 0.5, 200 + 20 * n) for n in range(4)]
    write_list(Path("filelists/train.txt"), clips)
    save_config(tiny_config({"p_dropout": 0.0}), "configs/config.json")
    return tmp_path


def gradients(folder: Path) -> dict[str, torch.Tensor]:
    return load_weights(folder / "gradients.pth")["gradients"]


def alone(folder: Path, batch_size: int, accumulate: int = 1) -> dict[str, torch.Tensor]:
    folder.mkdir()
    subprocess.run([sys.executable, SCRIPT, folder, str(batch_size), str(accumulate)], check=True)
    return gradients(folder)


def assert_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], prefix: str) -> None:
    names = [name for name in wanted if name.startswith(prefix)]
    largest = max(float(wanted[name].abs().max()) for name in names)
    assert names and found.keys() == wanted.keys()
    for name in names:
        assert (found[name] - wanted[name]).abs().max() < TOLERANCE * largest, name
        # and not by being small: the gradient of every tensor points the same way
        if wanted[name].norm() > 1e-3 * largest:
            assert torch.nn.functional.cosine_similarity(found[name].flatten(), wanted[name].flatten(), 0) > 0.999, name


def test_two_ranks_see_half_the_data_each_and_find_the_gradient_of_the_doubled_batch(workspace):
    folder = workspace / "two"
    folder.mkdir()
    assert launch(SCRIPT, [str(folder), "2", "1"], [CPU, CPU]) == 0
    seen = [json.loads((folder / f"seen_{rank}.json").read_text()) for rank in range(2)]
    assert len(seen[0]) == len(seen[1]) == 2 and len({*seen[0], *seen[1]}) == 4
    wanted = alone(workspace / "one", 4)
    assert_equal(gradients(folder), wanted, "D.")
    assert_equal(gradients(folder), wanted, "G.")


def test_two_batches_of_one_step_have_the_gradient_of_the_doubled_batch(workspace):
    found, wanted = alone(workspace / "twice", 2, accumulate=2), alone(workspace / "once", 4)
    assert_equal(found, wanted, "D.")
    # The generator learns from discriminators before their update here, and after it there: nearly the same.
    names = [name for name in wanted if name.startswith("G.")]
    a, b = (torch.cat([which[name].flatten() for name in names]) for which in (found, wanted))
    assert torch.nn.functional.cosine_similarity(a, b, 0) > 0.99


def test_ranks_with_two_batches_a_step_have_the_gradient_of_one_process_with_them(workspace):
    folder = workspace / "two"
    folder.mkdir()
    assert launch(SCRIPT, [str(folder), "1", "2"], [CPU, CPU]) == 0
    wanted = alone(workspace / "one", 2, accumulate=2)
    assert_equal(gradients(folder), wanted, "D.")
    assert_equal(gradients(folder), wanted, "G.")
