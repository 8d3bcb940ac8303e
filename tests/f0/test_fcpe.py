"""FCPE: so-vits-svc's network from its file gives so-vits-svc's numbers; without the file torchfcpe's runs."""

import json
import logging
import lzma

import golden_rule
import numpy as np
import pytest
import torch
from signals import sung
from small_f0_networks import SMALL_PCMER, pcmer, write_fcpe

from modules.config.audio import AudioSpec
from modules.errors import CheckpointError
from modules.f0 import fcpe
from modules.f0._networks.pcmer import Pcmer, PcmerSizes
from modules.f0.base import build_predictor, fill_gaps, predictor_identity, resize_nearest
from modules.files import sha256_of

PUBLISHED = json.loads(lzma.decompress((golden_rule.GOLDENS / "statedicts/f0_networks.json.xz").read_bytes()))
AUDIO = AudioSpec(44100, 2048, 512, 2048, 80, 0.0, 22050.0)


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("modules.pretrained.find.CODE_ROOT", tmp_path)
    fcpe._log_once.cache_clear()
    return tmp_path


@pytest.fixture(scope="module")
def golden():
    return golden_rule.load_golden("rule/fcpe_full")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """so-vits-svc's network at full width with six layers, as the golden was made."""
    folder = tmp_path_factory.mktemp("full")
    write_fcpe(folder, PcmerSizes(layers=6))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return build_predictor("fcpe", AUDIO, device="cpu")


@pytest.fixture
def small(workspace):
    write_fcpe(workspace)
    return build_predictor("fcpe", AUDIO, device="cpu")


def cents(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return 1200 * np.log2(found / wanted)


def test_names_and_shapes_are_those_of_the_published_file():
    with torch.device("meta"):
        found = Pcmer().state_dict()
    assert {name: list(value.shape) for name, value in found.items()} == PUBLISHED["fcpe_default"]
    assert PcmerSizes.of(found) == PcmerSizes()


def test_mel_and_scores_equal_the_golden(whole, golden):
    seen = []
    hook = whole._network.register_forward_pre_hook(lambda network, inputs: seen.append(inputs[0]))
    found = whole.salience(torch.from_numpy(golden["in_wav_int16"] / np.float32(32768)))
    hook.remove()
    # Where a band holds next to nothing its logarithm magnifies the rounding of the resampler: 5e-4 at most.
    np.testing.assert_allclose(seen[0][0].T[::10].numpy(), golden["mel_every10"][0], atol=2e-3)
    np.testing.assert_allclose(found[::10].numpy(), golden["sigmoid_out_every10"][0], atol=1e-4)


def test_the_curve_equals_the_golden(whole, golden):
    wav = golden["in_wav_int16"] / np.float32(32768)
    # Rounding of 1e-6 in nine scores of about 0.5 moves their mean by thousandths of a cent, here of some 1400 Hz.
    np.testing.assert_allclose(whole.track_native(wav), golden["f0_native_local"].ravel(), atol=0.02)
    # Not `predict`: these weights are random, and what they find in a voice would be repaired.
    found = fill_gaps(whole.track(wav, len(golden["f0"])))
    np.testing.assert_allclose(found.f0, golden["f0"], atol=0.02)
    np.testing.assert_array_equal(found.uv, golden["uv"])


def test_the_way_to_our_frames_equals_the_golden(golden):
    found = fill_gaps(resize_nearest(golden["in_post_f0"].astype(np.float64), len(golden["post_f0"])))
    np.testing.assert_allclose(found.f0, golden["post_f0"], rtol=1e-6)
    np.testing.assert_array_equal(found.uv, golden["post_uv"])


def test_the_log_says_once_which_network_runs(workspace, caplog):
    caplog.set_level(logging.INFO, "modules.f0.fcpe")
    for _ in range(2):
        build_predictor("fcpe", AUDIO, device="cpu")
    write_fcpe(workspace)
    for _ in range(2):
        build_predictor("fcpe", AUDIO, device="cpu")
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert said == ["fcpe: the network of torchfcpe", f"fcpe: so-vits-svc's network, {workspace / 'pretrain/fcpe.pt'}"]


def test_the_identity_tells_the_two_networks_apart(workspace):
    assert predictor_identity("fcpe") == "fcpe:torchfcpe-0.0.4"
    path = write_fcpe(workspace)
    assert predictor_identity("fcpe") == f"fcpe:{sha256_of(path)}"


def test_limits_that_were_chosen_are_kept(workspace):
    write_fcpe(workspace)
    wav = sung(np.full(30000, 220.0), 44100)

    def track(**limits):  # not `predict`: what random weights find would be repaired
        return build_predictor("fcpe", AUDIO, device="cpu", **limits).track(wav, len(wav) // 512)

    free = track()
    middle = float(np.median(free[free > 0]))
    np.testing.assert_allclose(track(f0_max=middle), np.minimum(free, middle), rtol=1e-6)
    np.testing.assert_allclose(track(f0_min=middle), np.where(free >= middle, free, 0), rtol=1e-6)


def test_scores_of_a_wave_in_windows_are_near_those_of_the_wave_at_once(small):
    times = np.arange(12 * 44100 + 123) / 44100
    wav = sung(220 * 2 ** (0.5 * np.sin(np.pi * times)), 44100)
    whole = small.salience(torch.from_numpy(wav))
    small.window_seconds, small.context_seconds = 6, 1
    windows = small.windows(len(wav))
    assert len(windows) == 3
    found = torch.cat([small.salience(torch.from_numpy(wav[read]))[keep] for read, keep in windows])
    assert found.shape == whole.shape
    # Attention and a normalisation take in the whole window, so a window cannot equal the whole, whatever the context.
    # Here 0.028 at most and 0.004 on average; random weights of full size on 150 s of real voices in windows of 60 s
    # gave 0.016 and 0.003.
    assert (found - whole).abs().max() < 0.05
    assert (found - whole).abs().mean() < 0.01


def test_released_network_in_windows_is_near_the_network_at_once():
    predictor = build_predictor("fcpe", AUDIO, device="cpu")
    wav = sung(np.geomspace(150, 300, 4 * 44100), 44100)
    whole = predictor.track_native(wav)
    predictor.window_seconds, predictor.context_seconds = 2, 0.5
    windows = predictor.track_native(wav)
    assert windows.shape == whole.shape
    # A normalisation layer takes in the whole window, so the two differ by a few cents.
    assert np.abs(cents(windows, whole)[5:-5]).max() < 10


def test_released_network_equals_the_golden_before_resizing():
    golden = golden_rule.load_golden("rule/f0_predictors")
    wav = golden["in_wav_int16"] / np.float32(32768)
    found = build_predictor("fcpe", AUDIO, device="cpu", threshold=0.006).track_native(wav)
    # The same package; its resampler and its convolutions round differently from one machine to the next.
    np.testing.assert_allclose(found, golden["torchfcpe_real_weights_f0_native"].ravel(), atol=0.1)


def test_a_higher_threshold_finds_fewer_voiced_frames():
    wav = golden_rule.load_golden("rule/f0_predictors")["in_wav_int16"] / 32768
    shares = [
        build_predictor("fcpe", AUDIO, threshold=threshold, device="cpu").predict(wav).uv.mean()
        for threshold in (0.0, 0.05, 0.6)
    ]
    assert shares[0] == 1 and shares[0] > shares[1] > shares[2]


def test_it_prints_nothing(capsys):
    build_predictor("fcpe", AUDIO, device="cpu").predict(2.5 * sung(np.full(9000, 250.0), 44100))
    assert capsys.readouterr() == ("", "")


def test_a_file_of_another_network_is_refused(workspace):
    path = write_fcpe(workspace)
    state = pcmer(SMALL_PCMER).state_dict()
    for content in ({"model": {**state, "norm.bias": torch.zeros(3)}}, {"model": {"cnn.weight": torch.zeros(2)}}, {}):
        torch.save(content, path)
        with pytest.raises(
            CheckpointError, match=r"fcpe\.pt: (not the weights of fcpe|does not fit).*download\.py fcpe"
        ):
            build_predictor("fcpe", AUDIO, device="cpu")


@pytest.mark.parametrize("mel", [{"num_mels": 80}, {"hop_size": 0}, {"fmax": "high"}])
def test_a_config_that_does_not_fit_is_refused(workspace, mel):
    path = write_fcpe(workspace)
    torch.save({"config": {"mel": mel}, "model": pcmer(SMALL_PCMER).state_dict()}, path)
    with pytest.raises(CheckpointError, match=r"fcpe\.pt.*config"):
        build_predictor("fcpe", AUDIO, device="cpu")


def test_a_file_that_would_run_code_is_refused_and_does_not_run(workspace):
    marker = workspace / "it_ran"
    path = write_fcpe(workspace)

    class Payload:
        def __reduce__(self):
            return (marker.write_text, ("!",))

    for config in (Payload(), {"mel": Payload()}):
        torch.save({"config": config, "model": pcmer(SMALL_PCMER).state_dict()}, path)
        with pytest.raises(CheckpointError, match=r"fcpe\.pt.*could run code"):
            build_predictor("fcpe", AUDIO, device="cpu")
    assert not marker.exists()
