"""The harmonic source follows its F0 at every rate, for any length, and repeats upstream's samples."""

import golden_rule
import numpy as np
import pytest
import torch

from vdecoder.source import NOISE_UNVOICED, SINE_AMPLITUDE, HarmonicSource


def clean_waves(source: HarmonicSource, f0: torch.Tensor) -> torch.Tensor:
    """(T, 9) without noise and start phases."""
    with golden_rule.counted_draws(zero=True):
        return source.waves(f0[None])[0]


@pytest.mark.parametrize("rate", [32000, 44100, 48000])
def test_a_constant_pitch_gives_sines_of_it_and_its_overtones(rate):
    waves = clean_waves(HarmonicSource(rate, 512), torch.full((100,), 220.0))
    times = np.arange(1, waves.shape[0] + 1) / rate
    for harmonic in range(9):
        wanted = SINE_AMPLITUDE * np.sin(2 * np.pi * 220.0 * (harmonic + 1) * times)
        # The step per sample is rounded to fp32, so that the phase drifts by 1e-7 of itself at most.
        np.testing.assert_allclose(waves[:, harmonic], wanted, atol=1e-4)


def test_the_phase_runs_on_without_a_jump_where_the_pitch_changes():
    f0 = torch.cat([torch.full((5,), 100.0), torch.full((5,), 130.0)])
    fundamental = clean_waves(HarmonicSource(44100, 512), f0)[:, 0]
    steepest = SINE_AMPLITUDE * 2 * np.pi * 130 / 44100
    assert fundamental.diff().abs().max() <= steepest * 1.001


def test_the_phase_is_as_exact_after_ten_minutes_as_at_the_start():
    source = HarmonicSource(44100, 512)
    n_frames = 10 * 60 * 44100 // 512
    # 44100 / 512 Hz takes exactly one turn per frame, so all frames are the same.
    phase = source._phase(torch.full((1, n_frames), 44100 / 512), torch.zeros(1))
    assert torch.equal(phase[0, 0], phase[0, -1])


def test_without_a_pitch_there_is_noise_only():
    source = HarmonicSource(44100, 512)
    assert not clean_waves(source, torch.zeros(4)).any()
    assert source.waves(torch.zeros(1, 200)).std().item() == pytest.approx(NOISE_UNVOICED, rel=0.02)


def test_the_waves_equal_upstreams():
    golden = golden_rule.load_golden("rule/sinegen_hifigan")
    source = HarmonicSource(44100, 512)
    with golden_rule.counted_draws() as log:
        waves = source.waves(golden_rule.tensor(golden["in_f0_frames"])[None]).numpy()
    assert log == golden["noise_log"].tolist()
    np.testing.assert_allclose(waves[:, :600], golden["sine_first600"], atol=1e-6)
    np.testing.assert_allclose(waves[:, ::37], golden["sine_waves_decim37"], atol=5e-6)


def test_the_excitation_is_fp32_in_every_precision_and_trains_its_mixture():
    source, f0 = HarmonicSource(44100, 64), torch.full((2, 10), 330.0)
    torch.manual_seed(3)
    wanted = source(f0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.manual_seed(3)
        assert torch.equal(source(f0), wanted) and wanted.dtype == torch.float32
    wanted.sum().backward()
    assert source.l_linear.weight.grad.abs().sum() > 0
    assert wanted.shape == (2, 1, 640)
