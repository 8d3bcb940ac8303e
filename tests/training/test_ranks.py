"""Several ranks learn what one process with the whole batch would learn."""

import functools
import json
from pathlib import Path

import pytest
import rank_work
import torch
from tiny_training import SMALL_DECODER
from tiny_voices import make_clip, tiny_config

from modules.config.io import save_config
from modules.data.filelist import write_list
from modules.training.distributed import Group
from modules.training.launch import launch
from modules.weights.checkpoint import load_weights

# Sums of floats in another order: what differs is rounding of the largest terms. The bias of the harmonic source, a sum
# over all samples, differs by 1.8e-4 with the kernels of one CPU and by less than 1e-4 with those of others.
TOLERANCE = 4e-4


@pytest.fixture(scope="module")
def gradients(tmp_path_factory):
    """The gradients of (ranks, batch size, batches a step), of four clips of the same length: every frame counts alike
    in a batch and in its halves."""
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SVC_TIMEOUT_SECONDS", "120")
        clips = [make_clip(Path("dataset/44k/alto") / f"clip {n}.wav", 0.5, 200 + 20 * n) for n in range(4)]
        write_list(Path("filelists/train.txt"), clips)
        save_config(tiny_config({**SMALL_DECODER, "p_dropout": 0.0}), "configs/config.json")
        assert launch(functools.partial(rank_work.two_steps, folder), [torch.device("cpu")] * 2) == 0
        rank_work.step(folder, Group(), 4, 1)
        rank_work.step(folder, Group(), 2, 2)
    seen = [json.loads((folder / f"seen_2_2_1_{rank}").read_text()) for rank in range(2)]
    assert len(seen[0]) == len(seen[1]) == 2 and len({*seen[0], *seen[1]}) == 4, "each sees half of the data"
    return {key: load_weights(folder / "gradients_{}_{}_{}.pth".format(*key)) for key in [*RANKS, *RANKS.values()]}


RANKS = {(2, 2, 1): (1, 4, 1), (2, 1, 2): (1, 2, 2)}  # what two ranks do, and one process with as many clips a step


def assert_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], prefix: str) -> None:
    names = [name for name in wanted if name.startswith(prefix)]
    largest = max(float(wanted[name].abs().max()) for name in names)
    assert names and found.keys() == wanted.keys()
    for name in names:
        assert (found[name] - wanted[name]).abs().max() < TOLERANCE * largest, name
        # and not by being small: the gradient of every tensor points the same way
        if wanted[name].norm() > 1e-3 * largest:
            assert torch.nn.functional.cosine_similarity(found[name].flatten(), wanted[name].flatten(), 0) > 0.999, name


@pytest.mark.parametrize("ranks", RANKS)
def test_two_ranks_find_the_gradient_of_one_process_with_as_many_clips_a_step(gradients, ranks):
    for prefix in ("D.", "G."):
        assert_equal(gradients[ranks], gradients[RANKS[ranks]], prefix)


def test_two_batches_of_one_step_have_the_gradient_of_the_doubled_batch(gradients):
    found, wanted = gradients[1, 2, 2], gradients[1, 4, 1]
    assert_equal(found, wanted, "D.")
    # The generator learns from discriminators before their update here, and after it there: nearly the same.
    names = [name for name in wanted if name.startswith("G.")]
    a, b = (torch.cat([which[name].flatten() for name in names]) for which in (found, wanted))
    assert torch.nn.functional.cosine_similarity(a, b, 0) > 0.99
