"""Units keep their order and their golden values when they are brought to the model's frames."""

from pathlib import Path

import numpy as np
import pytest
import torch

from modules.encoders.align import MODES, align_units
from modules.errors import ConfigError

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"


def test_all_modes_equal_the_goldens():
    golden = np.load(GOLDENS / "rule" / "f0_repeat_utils.npz")
    names = [name for name in golden.files if name.startswith("rep_")]
    assert len(names) == 15
    for name in names:
        _, source, n_frames, mode = name.split("_")
        found = align_units(torch.from_numpy(golden[f"in_rep_{source}"]), int(n_frames), mode)
        np.testing.assert_allclose(found.numpy(), golden[name], atol=1e-6, err_msg=name)


@pytest.mark.parametrize("n_frames", [30, 37, 64, 65, 100])
@pytest.mark.parametrize("mode", ["left", "nearest"])
def test_stretching_and_squeezing_equal_the_other_goldens(mode, n_frames):
    golden = np.load(GOLDENS / "tiny" / "dsp.npz")
    found = align_units(torch.from_numpy(golden["units"]), n_frames, mode)
    np.testing.assert_array_equal(found.numpy(), golden[f"{mode}_{n_frames}"])


def test_left_equals_the_step_by_step_rule():
    """Two routes: the loop that defines the mode, and the vectorised form."""
    generator = np.random.default_rng(0)
    for n_units, n_frames in generator.integers(1, 300, (200, 2)).tolist():
        starts = torch.arange(n_units + 1, dtype=torch.float32) * n_frames / n_units
        current, wanted = 0, []
        for frame in range(n_frames):
            if frame >= starts[current + 1]:
                current += 1
            wanted.append(current)
        units = torch.arange(n_units, dtype=torch.float32)[None]
        assert align_units(units, n_frames, "left")[0].tolist() == wanted


@pytest.mark.parametrize("mode", MODES)
def test_shape_dtype_and_empty_ends(mode):
    units = torch.randn(5, 7)
    assert align_units(units, 0, mode).shape == (5, 0)
    assert align_units(units[:, :0], 3, mode).tolist() == [[0.0] * 3] * 5
    assert align_units(units[:, :1], 4, mode).equal(units[:, :1].expand(5, 4))
    assert align_units(units.half(), 12, mode).dtype == torch.float16


def test_an_unknown_mode_lists_the_known_ones():
    with pytest.raises(ConfigError, match="left, nearest, linear"):
        align_units(torch.zeros(2, 3), 5, "cubic")
