"""Overlapping windows have the same noise, the same pitch and the same phase where they overlap."""

import numpy as np
import torch

from modules.contracts import F0
from modules.realtime.anchored import NoiseRun, Phase, PitchHistory, draws_of
from vdecoder.source import HarmonicSource

RATE, HOP, N_PAST, N_STEP, N_FRAMES = 16000, 160, 20, 10, 34


def test_the_source_of_the_next_window_goes_on_from_that_of_the_last():
    source, phase = HarmonicSource(RATE, HOP), Phase(RATE, HOP)
    noise = NoiseRun(N_FRAMES, HOP, 4, torch.device("cpu"), 0)
    random, made = np.random.default_rng(0), []
    curve = 200 + 30 * random.standard_normal(60).cumsum() / 5
    for index in range(2):
        f0 = curve[index * N_STEP :][:N_FRAMES].astype(np.float32)
        f0[:5] = 150 + 40 * index  # what the past is said to have been may change: it has been put out
        draws = draws_of(noise, phase.advance(f0, N_PAST, N_STEP))
        made.append(source(torch.from_numpy(f0)[None], draws.phases[None], draws.noise[None])[0, 0])
        noise.move(N_STEP)
    first, second = made[0][(N_PAST + N_STEP) * HOP :], made[1][N_PAST * HOP :][: 4 * HOP]
    assert first.std() > 0.01
    torch.testing.assert_close(second, first, atol=1e-4, rtol=0)


def test_noise_moves_with_the_window_and_is_the_same_in_every_run():
    runs = [NoiseRun(N_FRAMES, HOP, 4, torch.device("cpu"), 7) for _ in range(2)]
    latent, source = runs[0].latent, runs[0].source
    for run in runs:
        run.move(N_STEP)
    assert torch.equal(runs[0].latent[:, :-N_STEP], latent[:, N_STEP:])
    assert torch.equal(runs[0].source[: -N_STEP * HOP], source[N_STEP * HOP :])
    assert torch.equal(runs[0].source, runs[1].source) and torch.equal(runs[0].latent, runs[1].latent)
    assert abs(float(runs[0].source[-N_STEP * HOP :].std()) - 1) < 0.05


def test_pitch_that_was_put_out_stays_and_the_rest_is_taken_anew():
    history = PitchHistory(10)
    history.set_end(F0(np.full(10, 200, np.float32), np.ones(10, np.float32)), 10)
    history.move(4)
    history.set_end(F0(np.full(8, 300, np.float32), np.ones(8, np.float32)), 6)
    np.testing.assert_allclose(history.filled().f0, [200] * 4 + [300] * 6)


def test_a_gap_at_the_start_goes_on_from_the_note_before_the_window():
    history = PitchHistory(6)
    history.set_end(F0(np.full(6, 200, np.float32), np.array([1, 1, 1, 0, 0, 0], np.float32)), 6)
    history.move(3)
    filled = history.filled()
    np.testing.assert_allclose(filled.f0, 200)
    assert not filled.uv.any()
    assert not PitchHistory(6).filled().f0.any(), "without any note there is no pitch"
