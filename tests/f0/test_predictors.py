"""Every F0 predictor keeps the same promises, and agrees with what so-vits-svc computed."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from signals import sung
from small_f0_networks import write_rmvpe

from modules.audio.torchaudio_compat import import_torchcrepe
from modules.config.audio import AudioSpec
from modules.errors import AudioError, UsageError
from modules.f0.base import PREDICTORS, PitchPredictor, build_predictor, predictor_identity
from modules.f0.crepe import CrepePredictor, a_weighted

GOLDENS = Path(__file__).resolve().parents[1] / "goldens" / "rule"
RATES = (32000, 44100, 48000)
NAMES = [name for name in PREDICTORS.names() if name != "swift" or find_spec("swift_f0")]
TRAINED = [name for name in NAMES if name != "rmvpe"]  # that one has random weights here


@pytest.fixture(scope="module", autouse=True)
def workspace(tmp_path_factory):
    """A small RMVPE of random weights, CREPE's small network; what lies in `pretrain/` beside the code is not seen."""
    folder = tmp_path_factory.mktemp("workspace")
    write_rmvpe(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("modules.pretrained.find.CODE_ROOT", folder)
        patch.setattr(CrepePredictor, "capacity", "tiny")
        yield folder


def spec(rate: int = 44100) -> AudioSpec:
    return AudioSpec(rate, 2048, 512, 2048, 80, 0.0, rate / 2)


@cache
def predictor(name: str, rate: int = 44100) -> PitchPredictor:
    return build_predictor(name, spec(rate), device="cpu")


def cents(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return 1200 * np.log2(found / wanted)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("name", TRAINED)
def test_a_gliding_voice_is_followed_within_20_cents(name, rate):
    f0 = 200 * 2 ** (0.4 * np.arange(rate) / rate)
    found = predictor(name, rate).predict(sung(f0, rate))
    assert found.f0.shape == found.uv.shape == (rate // 512,)
    inner = slice(5, -5)
    assert found.uv[inner].all()
    wanted = f0[::512][: len(found.f0)]
    # crepe's bins are 20 cents wide and its frames 0.4 % short of ours.
    assert np.abs(cents(found.f0, wanted)[inner]).max() < (30 if name == "crepe" else 20)


@pytest.mark.parametrize("f0", (75.0, 440.0, 600.0))
@pytest.mark.parametrize("name", TRAINED)
def test_a_steady_voice_has_its_pitch(name, f0):
    if name == "crepe" and f0 < 100:
        pytest.skip("CREPE's small network does not find that low a voice")
    found = predictor(name).predict(sung(np.full(22050, f0), 44100))
    inner = slice(8, -8)
    assert found.uv[inner].all()
    assert np.abs(cents(found.f0[inner], f0)).max() < 20


@pytest.mark.parametrize("n_samples", [0, 1, 511, 512, 700, 2000, 2646, 2700, 5000, 12345])
@pytest.mark.parametrize("name", NAMES)
def test_any_length_gives_exactly_n_frames(name, n_samples):
    wav = sung(np.full(n_samples, 220.0), 44100)
    before = wav.copy()
    found = predictor(name).predict(wav)
    assert found.f0.shape == found.uv.shape == (n_samples // 512,)
    assert found.f0.dtype == found.uv.dtype == np.float32
    assert np.isfinite(found.f0).all() and set(found.uv) <= {0.0, 1.0}
    np.testing.assert_array_equal(wav, before)


@pytest.mark.parametrize("name", NAMES)
def test_silence_is_unvoiced(name):
    found = predictor(name).predict(np.zeros(10000, np.float32))
    assert not found.f0.any() and not found.uv.any()


@pytest.mark.parametrize("name", TRAINED)
def test_a_voice_between_silences_is_voiced_only_there(name):
    wav = np.concatenate([np.zeros(22050), sung(np.full(22050, 300.0), 44100), np.zeros(22050)])
    found = predictor(name).predict(wav)
    times = np.arange(len(found.uv)) * 512 / 44100
    assert found.uv[(times > 0.6) & (times < 0.9)].all()
    assert not found.uv[(times < 0.4) | (times > 1.1)].any()
    assert (np.abs(cents(found.f0, 300.0)) < 100).all(), "gaps hold the neighbouring pitch"


@pytest.mark.parametrize("name", NAMES)
def test_the_same_audio_gives_the_same_pitch(name):
    wav = sung(np.full(9000, 250.0), 44100)
    np.testing.assert_array_equal(predictor(name).predict(wav).f0, predictor(name).predict(wav).f0)


@pytest.mark.parametrize("name", NAMES)
def test_samples_that_are_not_finite_are_refused(name):
    wav = np.zeros(9000, np.float32)
    wav[5] = np.nan
    with pytest.raises(AudioError, match="not finite"):
        predictor(name).predict(wav)


def test_the_identity_says_what_a_curve_depends_on():
    assert predictor_identity("pm") == "pm"
    assert predictor_identity("crepe") == "crepe:torchcrepe-0.0.24"
    with pytest.raises(UsageError, match="yin"):
        predictor_identity("yin")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UsageError, match="crepe, dio, fcpe, harvest, pm, rmvpe, swift"):
        build_predictor("yin", spec())


@pytest.mark.parametrize("name", ["pm", "dio", "harvest"])
def test_the_curve_equals_the_golden(name):
    golden = np.load(GOLDENS / "f0_predictors.npz")
    found = predictor(name).predict(golden["in_wav_int16"].astype(np.float32) / 32768)
    # The golden filled its gaps over times in float32, which moves even voiced frames by some 1e-6.
    np.testing.assert_allclose(found.f0, golden[f"{name}_f0"], rtol=5e-6)
    np.testing.assert_array_equal(found.uv, golden[f"{name}_uv"])


def test_crepe_equals_the_golden_at_every_stage(monkeypatch):
    """On the first half second of three, whose path does not depend on the rest, with the network of the golden."""
    golden = np.load(GOLDENS / "f0_predictors.npz")
    wav = golden["in_wav_int16"][:22050].astype(np.float32) / 32768
    monkeypatch.setattr(CrepePredictor, "capacity", "full")
    crepe, stages = build_predictor("crepe", spec(), device="cpu"), []
    track = crepe.track_native
    monkeypatch.setattr(crepe, "track_native", lambda audio, hop: stages.append(track(audio, hop)) or stages[0])
    found = crepe.predict(wav)
    pitch, periodicity = stages[0]
    first = slice(0, 30)
    # The path goes through the same bins; scores are those of the same weights, rounded on another machine.
    np.testing.assert_allclose(pitch[0, first], golden["raw_crepe_pitch"][0, first], rtol=1e-5)
    np.testing.assert_allclose(periodicity[0, first], golden["raw_crepe_periodicity"][0, first], atol=1e-3)
    np.testing.assert_allclose(found.f0[first], golden["crepe_f0"][first], atol=0.1)
    np.testing.assert_array_equal(found.uv[first], golden["crepe_uv"][first])


@pytest.mark.parametrize("level", [1.0, 1e-3])
def test_crepes_loudness_in_parts_equals_torchcrepes(monkeypatch, level):
    wav = np.load(GOLDENS / "f0_predictors.npz")["in_wav_int16"].astype(np.float32)[: 3 * 16000] / 32768 * level
    wav[20000:30000] = 0
    monkeypatch.setattr("modules.f0.crepe.LOUDNESS_FRAMES", 100)
    found = a_weighted(torch.from_numpy(wav), 185)
    wanted = import_torchcrepe().loudness.a_weighted(torch.from_numpy(wav)[None], 16000, 185, pad=True)
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0)


def test_crepe_in_parts_equals_crepe_at_once(monkeypatch):
    """With a stand-in for the network, since it sees every frame by itself: what matters is how they are cut."""
    crepe = predictor("crepe")

    def scores(frames, model, device):
        spectrum = torch.fft.rfft(frames).abs()[:, :360]
        return spectrum / spectrum.amax(dim=1, keepdim=True)

    monkeypatch.setattr(crepe._torchcrepe, "infer", scores)
    wav = sung(np.geomspace(150, 500, 15 * 44100), 44100)
    whole = crepe.predict(wav)
    assert crepe.audio.n_frames(len(wav)) > 1024
    monkeypatch.setattr("modules.f0.crepe.NETWORK_FRAMES", 7)
    monkeypatch.setattr("modules.f0.crepe.LOUDNESS_FRAMES", 50)
    parts = crepe.predict(wav)
    np.testing.assert_array_equal(parts.f0, whole.f0)
    np.testing.assert_array_equal(parts.uv, whole.uv)
