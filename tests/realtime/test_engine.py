"""The engine with stand-ins: every sample in its place, nothing computed for silence, networks seen as offline."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_engine import TENOR, make_engine
from inference.fake_voice import AUDIO, sung

from modules.contracts import F0
from modules.errors import UsageError
from modules.realtime.engine import Engine, choose_threads
from modules.realtime.options import RealtimeOptions

RATE = AUDIO.sampling_rate


def stream(engine: Engine, wav: np.ndarray, bypass: bool = False) -> np.ndarray:
    """All that comes out for a wave, without the delay."""
    n_blocks = -(-(len(wav) + engine.delay) // engine.n_block)
    padded = np.pad(wav, (0, n_blocks * engine.n_block - len(wav))).reshape(n_blocks, -1)
    return np.concatenate([engine.process(block, bypass) for block in padded])[engine.delay :][: len(wav)]


@pytest.mark.parametrize("block", [0.05, 0.2, 0.33])
def test_the_output_follows_the_loudness_of_the_input_in_its_place(block):
    engine, _, _ = make_engine(RealtimeOptions(block=block, crossfade=0.04, extra=0.3))
    wav = sung(3.0, RATE)
    wav[RATE : RATE * 2] *= 0.5
    out = stream(engine, wav)
    level = np.sqrt(np.convolve(wav**2, np.ones(320) / 320, "same"))
    away = np.ones(len(wav), bool)  # from the steps, where units of 20 ms and their grid show
    for edge in (0, RATE, 2 * RATE, 3 * RATE):
        away[max(0, edge - 1200) : edge + 1200] = False
    np.testing.assert_allclose(out[away], level[away], atol=0.02)
    assert 0.9 < np.flatnonzero(out[RATE // 2 :] < 0.75 * level[RATE // 2])[0] / (RATE / 2) < 1.1


def test_bypass_is_the_input_at_the_same_delay():
    engine, _, calls = make_engine()
    wav = sung(1.0, RATE)
    np.testing.assert_allclose(stream(engine, wav, bypass=True)[1000:], wav[1000:], atol=1e-6)
    assert not calls


def test_nothing_is_computed_below_the_gate_and_word_ends_are_kept():
    engine, _, calls = make_engine()
    wav = np.concatenate([sung(0.6, RATE), np.zeros(2 * RATE, np.float32)])
    out = stream(engine, wav)
    assert out[int(0.3 * RATE) : int(0.55 * RATE)].min() > 0.1
    assert engine.is_silent and not out[-RATE // 2 :].any()
    n_open = sum(name == "infer" for name, _ in calls)
    assert 5 <= n_open <= 7, "0.6 s of voice, and the hold"


def test_a_gate_of_minus_120_lets_quiet_sound_through():
    engine, _, calls = make_engine(RealtimeOptions(block=0.2, crossfade=0.04, extra=0.3, gate=-120))
    engine.process(np.full(engine.n_block, 1e-5, np.float32))
    assert ("infer", engine._n_frames) in calls and not engine.is_silent


def test_the_voice_is_given_the_transposed_pitch_and_the_speaker():
    engine, synthesizer, _ = make_engine(conversion=replace(TENOR, transpose=12))
    engine.process(sung(0.2, RATE)[: engine.n_block])
    assert float(synthesizer.seen[-1]["f0"][-1]) == pytest.approx(400) and synthesizer.seen[-1]["speaker"] == 1


def test_units_are_pulled_to_the_training_voice_and_the_noise_is_as_asked_for():
    retriever = SimpleNamespace(blend=lambda units, speaker, ratio: units * 0 + ratio)
    conversion = replace(TENOR, retrieval_ratio=0.25, noise_scale=0.1)
    engine, synthesizer, _ = make_engine(conversion=conversion, retriever=retriever)
    infer, given = synthesizer.infer, []
    synthesizer.infer = lambda *args, draws: given.append(args) or infer(*args, draws=draws)
    out = stream(engine, sung(1.0, RATE))
    np.testing.assert_allclose(out[1000:-1000], 0.25, atol=1e-6)
    assert given[0][5] == 0.1


def test_the_level_is_that_of_the_loudest_moment_and_not_of_each_block():
    card = {"volume_peak": 0.5}
    engine, synthesizer, _ = make_engine(with_volume=True, card=card)
    loud = sung(2.0, RATE)
    for wav in (loud, 0.1 * loud):
        stream(engine, wav)
    volumes = [seen["volume"].max() for seen in synthesizer.seen]
    assert float(max(volumes)) == pytest.approx(0.5, rel=0.01)
    assert float(volumes[-3]) < 0.1, "a quiet block is not raised to the level of a loud one"


@pytest.mark.parametrize("unvoiced_source", [True, False])
def test_the_phase_stands_still_in_unvoiced_frames_where_the_voice_was_trained_so(unvoiced_source):
    engine, synthesizer, _ = make_engine(unvoiced_source=unvoiced_source)
    unvoiced = F0(np.zeros(99, np.float32), np.zeros(99, np.float32))
    engine.pipeline.predictor.predict = lambda wav: unvoiced
    engine._pitch._last = 201.3  # the note before goes on through the gap
    infer, phases = synthesizer.infer, []
    synthesizer.infer = lambda *args, draws: phases.append(draws.phases[0]) or infer(*args, draws=draws)
    for _ in range(2):
        engine.process(sung(0.2, RATE)[: engine.n_block])
    assert (float(phases[0]) == float(phases[1])) == unvoiced_source


def test_warming_up_leaves_no_trace():
    engine, _, _ = make_engine()
    wav = sung(1.0, RATE)
    first = stream(engine, wav)
    engine.reset()
    assert len(engine.warm_up()) >= 3
    np.testing.assert_array_equal(stream(engine, wav), first)
    torch.manual_seed(1)
    engine.reset()
    np.testing.assert_array_equal(stream(engine, wav), first)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({(1, 1): 0.5, (1, 2): 0.3, (1, 4): 0.29, (2, 4): 0.28}, (1, 2)),
        ({(1, 1): 0.5, (1, 2): 1.5, (1, 4): 0.45, (2, 4): 2.0}, (1, 1)),
        ({(1, 1): 0.5, (1, 2): 0.45, (1, 4): 0.44, (2, 4): 0.2}, (2, 4)),
    ],
)
def test_more_threads_are_taken_only_where_they_are_clearly_quicker(monkeypatch, seconds, expected):
    engine, _, _ = make_engine()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    engine.warm_up = lambda: [0.01, seconds[engine.threads], 9.0]
    assert choose_threads(engine) == 9.0 and engine.threads == expected


def test_units_and_voice_have_the_threads_that_were_chosen(monkeypatch):
    engine, _, _ = make_engine()
    used = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    engine.process(sung(0.2, RATE)[: engine.n_block])
    engine.threads = (1, 2)
    engine.process(sung(0.2, RATE)[: engine.n_block])
    assert used == [1, 2]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"block": 0.01}, "--block is 0.01; it must lie between 0.05 and 5"),
        ({"gate": float("nan")}, "--gate is nan"),
        ({"block": 0.1, "crossfade": 0.2}, "--crossfade 0.2 is longer than --block 0.1"),
        ({"extra": 99, "crossfade": 0}, "--crossfade is 0; it must lie between 0.01 and 1; --extra is 99"),
    ],
)
def test_impossible_numbers_are_refused(values, text):
    with pytest.raises(UsageError, match=text):
        RealtimeOptions(**values)
