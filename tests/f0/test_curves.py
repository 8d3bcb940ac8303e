"""Filling, resizing and smoothing of pitch curves, against so-vits-svc's numbers and by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from modules.config.presets import preset_values
from modules.config.schema import Config
from modules.f0.base import fill_gaps, resize_f0, resize_nearest, sample_curve
from modules.f0.convert import f0_to_coarse, f0_to_lf0, lf0_to_f0, normalize_lf0
from modules.f0.crepe import clean

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDENS / "rule" / "f0_repeat_utils.npz")


@pytest.mark.parametrize("case", ["mix", "zeros", "two"])
def test_filled_gaps_equal_the_golden(golden, case):
    found = fill_gaps(golden[f"in_interp_{case}"])
    np.testing.assert_allclose(found.f0, golden[f"interp_{case}"], rtol=1e-6)
    np.testing.assert_array_equal(found.uv, golden[f"interp_{case}_uv"])


def test_a_gap_gets_the_line_between_its_neighbours_and_ends_are_held():
    found = fill_gaps(np.array([0, 100, 0, 0, 400, 0.0]))
    np.testing.assert_allclose(found.f0, [100, 100, 200, 300, 400, 400])
    np.testing.assert_array_equal(found.uv, [0, 1, 0, 0, 1, 0])


def test_a_single_voiced_frame_is_held_everywhere(golden):
    curve = golden["in_interp_one"]
    found = fill_gaps(curve)
    assert (found.f0 == np.float32(curve.max())).all(), "so-vits-svc gives zeros here with pm, dio and harvest"
    np.testing.assert_array_equal(found.uv, golden["interp_one_uv"])


@pytest.mark.parametrize("case", ["mix", "zeros", "one", "two"])
def test_resized_curves_equal_the_golden(golden, case):
    names = [name for name in golden.files if name.startswith(f"resize_{case}_")]
    assert len(names) == 4
    for name in names:
        found = resize_f0(golden[f"in_interp_{case}"], int(name.rsplit("_", 1)[1]))
        np.testing.assert_allclose(found, golden[name], rtol=1e-6)


@pytest.mark.parametrize("n, n_frames", [(257, 255), (10, 20), (7, 7), (1, 5), (30000, 25839)])
def test_nearest_resizing_is_torchs(n, n_frames):
    curve = np.random.default_rng(n).random(n)
    wanted = torch.nn.functional.interpolate(torch.from_numpy(curve)[None, None], size=n_frames, mode="nearest")
    np.testing.assert_array_equal(resize_nearest(curve, n_frames), wanted[0, 0].numpy())


def test_crepes_cleaning_equals_the_golden_from_its_raw_output():
    golden = np.load(GOLDENS / "rule" / "f0_predictors.npz")
    pitch, confidence = (torch.from_numpy(golden[f"raw_crepe_{name}"]) for name in ("pitch", "periodicity"))
    curve = clean(pitch, confidence, torch.zeros_like(pitch), 0.05)
    found = fill_gaps(resize_nearest(curve, len(golden["crepe_f0"])))
    # The golden's clip has no frame below the silence gate that is not in doubt already.
    np.testing.assert_allclose(found.f0, golden["crepe_f0"], atol=0.1)
    np.testing.assert_array_equal(found.uv, golden["crepe_uv"])


def test_silent_and_doubtful_frames_are_unvoiced():
    pitch = torch.full((1, 9), 200.0)
    confidence = torch.tensor([[0.9] * 3 + [0.01] * 6])
    loudness = torch.tensor([[-80.0, -80.0] + [-10.0] * 7])
    found = clean(pitch, confidence, loudness, 0.05)
    np.testing.assert_array_equal(found > 0, [False, True, True, True, False, False, False, False, False])


def test_a_curve_read_between_frames_is_interpolated_in_semitones():
    found = sample_curve(np.array([100.0, 200.0, 0.0, 50.0]), 1.0, np.array([0.0, 0.5, 1.4, 1.6, 2.4, 3.0, 9.0]))
    np.testing.assert_allclose(found, [100, 100 * 2**0.5, 200, 0, 0, 50, 50])


def test_coarse_pitch_equals_the_goldens(golden):
    found = f0_to_coarse(torch.from_numpy(golden["in_coarse"]))
    np.testing.assert_array_equal(found.numpy(), golden["coarse"])
    dsp = np.load(GOLDENS / "tiny" / "dsp.npz")
    np.testing.assert_array_equal(f0_to_coarse(torch.from_numpy(dsp["coarse_in"])).numpy(), dsp["coarse_out"])


def test_coarse_pitch_above_the_last_step_can_be_held():
    f0 = torch.tensor([0.0, 50.0, 440.0, 1100.0, 1105.0, 2000.0])
    assert f0_to_coarse(f0).tolist() == [1, 1, 122, 255, 0, 0]
    assert f0_to_coarse(f0, clamp_high=True).tolist() == [1, 1, 122, 255, 255, 255]


def test_normalised_pitch_equals_the_goldens(golden):
    lf0, mask, uv = (torch.from_numpy(golden[f"in_norm_{name}"]) for name in ("lf0", "mask", "uv"))
    np.testing.assert_allclose(normalize_lf0(lf0, mask, uv).numpy(), golden["norm_noscale"], atol=1e-6)
    unvoiced = normalize_lf0(lf0, mask, torch.zeros_like(uv))
    np.testing.assert_allclose(unvoiced.numpy(), golden["norm_alluv0"], atol=1e-6)


def test_the_decoders_axis_has_an_inverse():
    f0 = torch.tensor([0.0, 50.0, 441.0, 1100.0])
    torch.testing.assert_close(lf0_to_f0(f0_to_lf0(f0)), f0, atol=1e-3, rtol=1e-5)


def test_a_model_embeds_high_pitch_as_its_config_says():
    assert Config().model.clamp_f0_high is False, "published checkpoints were trained with row 0"
    assert preset_values("base", "vec768l12", 768)["model"]["clamp_f0_high"] is True
    assert Config(model={"clamp_f0_high": True}).model.generator_kwargs()["clamp_f0_high"] is True
