"""A stand-in voice whose range is known is measured as having it; vowels are found where the sound is steady."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from inference.fake_voice import AUDIO, fake_converter

from modules.contracts import F0, Synthesis
from modules.errors import CheckpointError
from modules.evaluation import ranges, scale
from modules.evaluation.ranges import measure_ranges, measure_within, put_on_card, write_ranges
from modules.evaluation.scale import BUILT_IN, ScaleTest, Vowels, find_steady, find_vowels, synthesize_vowel
from modules.f0.base import build_predictor
from modules.f0.voice_range import ranges_on
from modules.weights.card import read_card
from modules.weights.checkpoint import save_weights
from modules.weights.int8 import pack

RATE, HOP = AUDIO.sampling_rate, AUDIO.hop_length
UNITS = Vowels(torch.tensor([[0.5, -0.5], [0.1, 0.2]]), "test.wav")


class KnownVoice:
    """Sings from `low` to `high` as asked, an octave lower outside, and more and more faintly from `weak` on."""

    def __init__(self, low: int = 45, high: int = 72, weak: int = 68) -> None:
        self.low, self.high, self.weak, self.given = low, high, weak, []

    def infer_batch(self, items, noise_scale):
        return [self._sing(item) for item in items]

    def _sing(self, item):
        self.given.append(item)
        hz = float(item.f0[0])
        midi = round(69 + 12 * np.log2(hz / 440))
        sung = hz if self.low <= midi <= self.high else hz / 2
        times = np.arange(len(item.f0) * HOP) / RATE
        wav = sum(np.sin(2 * np.pi * k * sung * times) / k for k in range(1, 5) if k * sung < RATE / 2)
        gain = 0.2 * 10 ** (-3 * max(0, midi - self.weak + 1) / 20)
        noise = 0.01 * np.random.default_rng(midi).standard_normal(len(times))
        return Synthesis(torch.from_numpy((gain * (wav + noise)).astype(np.float32)), item.f0)


class Exact:
    """A predictor that finds the strongest low peak of a spectrum, quickly."""

    name = "exact"

    def predict(self, wav):
        n_frames = len(wav) // HOP
        spectrum = np.abs(np.fft.rfft(wav * np.hanning(len(wav)), 1 << 17))
        hz = np.argmax(spectrum) * RATE / (1 << 17)
        return F0(np.full(n_frames, hz, np.float32), np.ones(n_frames, np.float32))


def scale_test(voice: KnownVoice, *predictors, **changes) -> ScaleTest:
    return ScaleTest(voice, AUDIO, predictors or (Exact(),), **{"notes": range(40, 90), **changes})


def test_the_range_of_a_voice_is_found_to_the_note():
    found = scale_test(KnownVoice()).measure(0, UNITS)
    assert found.range.sings == (45, 72) and found.range.comfortable == (45, 69), "68 is at -3 dB, 69 at -6, 70 at -9"
    assert (found.range.predictors, found.range.vowel) == (("exact",), "test.wav")


def test_praat_hears_what_the_voice_sings():
    pm = build_predictor("pm", AUDIO, device="cpu", f0_max=scale.HIGHEST_HZ)
    found = scale_test(KnownVoice(), pm, Exact(), notes=range(43, 76, 2)).measure(0, UNITS)
    assert found.range.sings == (45, 71) and found.range.predictors == ("pm", "exact")


def test_a_voice_that_follows_no_note_has_no_range_and_says_so():
    found = scale_test(KnownVoice(low=200)).measure(0, UNITS)
    assert found.range is None and "sings no note" in str(found) and len(found.scores) == 50


def test_the_scale_ends_where_a_whole_batch_is_wrong_and_the_voice_is_given_what_it_knows():
    voice = KnownVoice()
    found = scale_test(voice, volume=0.4).measure(3, UNITS)
    assert found.scores[-1].midi == 80 and not any(score.is_right for score in found.scores[-8:])
    assert {item.speaker for item in voice.given} == {3}
    assert all(torch.equal(item.units, UNITS.units.repeat_interleave(35, 1)) for item in voice.given)
    assert all((item.volume == 0.4).all() and (item.uv == 1).all() for item in voice.given)


def test_what_cannot_be_measured_in_time_is_left_out():
    test = scale_test(KnownVoice())
    assert measure_within(0.0, test, [("alto", 0, UNITS)]) == {}
    assert list(measure_within(60.0, test, [("alto", 0, UNITS), ("bass", 1, None)])) == ["alto"]


def recording(*parts: tuple[float, bool]) -> tuple[np.ndarray, F0]:
    """Parts of so many seconds, steady or gliding, of a sung "ah", and the true pitch."""
    hz = np.concatenate(
        [np.full(int(s * 100), 200.0) if steady else np.geomspace(150, 300, int(s * 100)) for s, steady in parts]
    )
    phase = 2 * np.pi * np.cumsum(np.repeat(hz, HOP)) / RATE
    wav = sum(np.sin(k * phase) / k for k in range(1, 8)) / 4
    return wav.astype(np.float32), F0(hz.astype(np.float32), np.ones(len(hz), np.float32))


def test_the_steadiest_stretch_is_where_the_pitch_stays():
    wav, curve = recording((0.8, False), (0.5, True), (0.8, False))
    unsteady, place = find_steady(wav, curve, AUDIO)
    assert place.start >= 78 and place.stop <= 132 and unsteady < 0.2


def test_faint_unvoiced_and_short_sounds_are_no_vowel():
    wav, curve = recording((1.0, True))
    assert find_steady(wav[: 10 * HOP], F0(curve.f0[:10], curve.uv[:10]), AUDIO) is None
    assert find_steady(wav, F0(curve.f0, 0 * curve.uv), AUDIO) is None
    loud = np.concatenate([0.01 * wav, wav])
    _, place = find_steady(loud, F0(np.tile(curve.f0, 2), np.tile(curve.uv, 2)), AUDIO)
    assert place.start >= 98, "not the faint copy before it"


def test_a_vowel_comes_from_the_speakers_own_recordings_or_else_is_synthesized(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "NOTES", range(50, 60))
    wav, _ = recording((1.5, True))
    (tmp_path / "alto").mkdir()
    soundfile.write(tmp_path / "alto" / "take 1.wav", wav, RATE)
    (tmp_path / "alto" / "broken.wav").write_bytes(b"RIFF")
    converter, *_ = fake_converter(synthesizer=KnownVoice(), card={"name": "x"})
    pipeline = converter.pipeline
    assert find_vowels(pipeline, "tenor", tmp_path / "tenor") is None
    assert find_vowels(pipeline, "alto", tmp_path / "alto").units.shape == (2, 1)
    monkeypatch.setattr(ranges.ScaleTest, "measure", lambda self, speaker, vowel, on_note: vowel_only(vowel))
    found = measure_ranges(pipeline, ["alto", "tenor"], tmp_path, (Exact(),))
    assert [found[name].vowel for name in ("alto", "tenor")] == ["take 1.wav", BUILT_IN]


def vowel_only(vowel: Vowels) -> scale.Measured:
    return scale.Measured(None, (), vowel.origin)


def test_the_synthesized_vowel_has_its_pitch():
    wav = synthesize_vowel((730, 1090, 2440), RATE)
    assert np.abs(wav).max() == pytest.approx(0.5)
    curve = build_predictor("pm", AUDIO, device="cpu").predict(wav)
    assert np.median(curve.f0) == pytest.approx(165, rel=0.01) and curve.uv.mean() > 0.9


def test_ranges_go_into_a_table_and_into_the_card_and_nothing_else_changes(tmp_path):
    weights = {"emb_g.weight": torch.randn(4, 64), "x": torch.arange(3.0)}
    path, packed = tmp_path / "G_1.pth", pack(weights)
    card = {"name": "v", "ranges": {"old": {"sings": 1}, "alto": {"sings": 2}}}
    save_weights(path, {"model": packed, "iteration": 3, "card": card})
    before = torch.load(path, weights_only=True)
    measured = {
        "alto": scale_test(KnownVoice()).measure(0, UNITS),
        "bass": scale_test(KnownVoice(200)).measure(1, UNITS),
    }
    put_on_card(path, card, measured)
    after = torch.load(path, weights_only=True)
    assert list(before["model"]) == list(after["model"]) and after["iteration"] == 3
    for name, tensor in before["model"].items():
        if isinstance(tensor, torch.Tensor):
            assert tensor.dtype == after["model"][name].dtype and torch.equal(tensor, after["model"][name])
    assert ranges_on(read_card(path)) == {"alto": measured["alto"].range}
    assert read_card(path)["name"] == "v" and read_card(path)["ranges"]["old"] == {"sings": 1}

    write_ranges(tmp_path / "range.json", path, measured)
    table = json.loads((tmp_path / "range.json").read_text("utf-8"))
    assert table["speakers"]["alto"]["text"].startswith("comfortable A2-A4, sings A2-C5")
    assert table["speakers"]["bass"]["notes"][0]["note"] == "E2" and "sings" not in table["speakers"]["bass"]
    assert table["rules"]["right_within_cents"] == 50


@pytest.mark.parametrize("name", ["voice.onnx", "voice.safetensors"])
def test_a_card_that_cannot_be_changed_is_refused_with_the_way_round(name):
    with pytest.raises(CheckpointError, match=rf"{name}: only the card of a \.pth file can be changed"):
        put_on_card(Path(name), {}, {})
