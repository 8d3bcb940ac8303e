"""RMVPE: the network and its decoding give so-vits-svc's numbers, whole or in windows, from a file that is checked."""

import json
import lzma
import pickle

import golden_rule
import numpy as np
import pytest
import torch
from signals import sung
from small_f0_networks import rmvpe_state, write_rmvpe

from modules.config.audio import AudioSpec
from modules.errors import CheckpointError, MissingWeights
from modules.f0._networks.rmvpe import Rmvpe, RmvpeSizes
from modules.f0.base import build_predictor, predictor_identity
from modules.f0.decode import BIN_CENTS, local_average
from modules.files import sha256_of

PUBLISHED = json.loads(lzma.decompress((golden_rule.GOLDENS / "statedicts/f0_networks.json.xz").read_bytes()))
UNUSED_PREFIX = "unet.tf."  # of the timbre filter, which nothing runs
AUDIO = AudioSpec(44100, 2048, 512, 2048, 80, 0.0, 22050.0)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def predictor(workspace):
    write_rmvpe(workspace)
    return build_predictor("rmvpe", AUDIO, device="cpu")


@pytest.fixture(scope="module")
def golden():
    return golden_rule.load_golden("tiny/rmvpe_small")


def test_names_and_shapes_are_those_of_the_published_file():
    with torch.device("meta"):
        found = {name: list(value.shape) for name, value in Rmvpe().state_dict().items()}
    wanted = PUBLISHED["rmvpe_E2E0"]
    assert found == {name: shape for name, shape in wanted.items() if not name.startswith(UNUSED_PREFIX)}
    assert any(name.startswith(UNUSED_PREFIX) for name in wanted)
    state = {name: torch.empty(shape, device="meta") for name, shape in wanted.items()}
    assert RmvpeSizes.of(state) == RmvpeSizes()


def test_scores_equal_the_golden(predictor, golden):
    with torch.inference_mode():
        found = predictor._network(golden_rule.tensor(golden["mel"]))
    # Same arithmetic in the same order: what is left is rounding (6e-8 where the golden was made).
    np.testing.assert_allclose(found.numpy(), golden["salience"], atol=1e-5)


def test_decoded_pitch_equals_the_golden(golden):
    cents = torch.from_numpy(BIN_CENTS).float()
    found = local_average(golden_rule.tensor(golden["sal2"]), cents, 0.05, repeat_edge=False).numpy()
    voiced = golden["cents"] > 0
    np.testing.assert_array_equal(found > 0, voiced)
    # The golden averaged cents in float32, which is exact to some thousandths of a cent.
    np.testing.assert_allclose(found[voiced], golden["cents"][voiced], atol=5e-3)


def test_the_front_end_and_the_padding_are_so_vits_svcs(predictor):
    dsp = golden_rule.load_golden("tiny/dsp")
    wav = golden_rule.tensor(dsp["sig"])[:16000]
    seen = []
    predictor.resample = lambda wav: wav  # the golden reads these samples as if they were at 16 kHz
    predictor._network.register_forward_pre_hook(lambda network, inputs: seen.append(inputs[0]))
    assert predictor.salience(wav).shape == (101, 360)
    mel = seen[0][0]
    assert mel.shape == (128, 104), "a multiple of 4 in this net, of 32 in the published one"
    np.testing.assert_allclose(mel[:, [0, 9, 50]].numpy(), dsp["rmvpe_mel"], atol=1e-4)
    assert not mel[:, 101:].any()


def test_a_wave_in_windows_equals_the_wave_at_once(predictor):
    wav = sung(np.geomspace(120, 700, 9 * 44100 + 123), 44100)
    whole = predictor.salience(torch.from_numpy(wav))
    predictor.window_seconds, predictor.context_seconds = 3, 0.5
    windows = predictor.windows(len(wav))
    assert len(windows) == 5
    parts = [predictor.salience(torch.from_numpy(wav[read]))[keep] for read, keep in windows]
    # The GRU remembers everything, in principle; of what lies half a second away nothing is left in float32 here.
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-5, rtol=0)


def test_the_curve_of_a_long_wave_equals_that_of_the_wave_at_once(predictor):
    wav = sung(np.geomspace(120, 700, 5 * 44100), 44100)
    predictor.threshold = 0.52  # the scores of this net are near 0.5
    whole = predictor.predict(wav)
    predictor.window_seconds, predictor.context_seconds = 2, 0.5
    lengths = []
    predictor._network.register_forward_pre_hook(lambda network, inputs: lengths.append(inputs[0].shape[2]))
    found = predictor.predict(wav)
    assert len(lengths) == 5 and max(lengths) <= 204, "spectrum and network, too, see no more than a window"
    assert 0 < whole.uv.mean() <= 1
    # A rounding error in the scores is a hundredth of a cent in the mean of nine bins of nearly equal score.
    assert np.abs(1200 * np.log2(found.f0 / whole.f0)).max() < 0.1
    np.testing.assert_array_equal(found.uv, whole.uv)


def test_a_higher_threshold_finds_fewer_voiced_frames(predictor):
    wav = sung(np.full(44100, 220.0), 44100)
    shares = []
    for threshold in (0.05, 0.54, 0.99):
        predictor.threshold = threshold
        shares.append(predictor.predict(wav).uv.mean())
    assert shares[0] == 1 and shares[0] >= shares[1] >= shares[2] and shares[2] == 0


@pytest.mark.parametrize("form", ["bare", "wrapped", "parallel", "half"])
def test_every_form_of_the_file_gives_the_same_network(workspace, predictor, form):
    state = rmvpe_state()
    if form == "half":
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    if form == "parallel":
        state = {f"module.{name}": value for name, value in state.items()}
    torch.save(state if form == "bare" else {"model": state}, workspace / "pretrain/rmvpe.pt")
    found = build_predictor("rmvpe", AUDIO, device="cpu")
    wav = torch.from_numpy(sung(np.full(9000, 220.0), 44100))
    torch.testing.assert_close(found.salience(wav), predictor.salience(wav), atol=1e-3 if form == "half" else 0, rtol=0)


def test_the_identity_is_the_files(workspace):
    path = write_rmvpe(workspace)
    assert predictor_identity("rmvpe") == f"rmvpe:{sha256_of(path)}"


def test_a_missing_file_is_named(workspace, monkeypatch):
    monkeypatch.setattr("modules.pretrained.find.CODE_ROOT", workspace)
    for ask in (lambda: build_predictor("rmvpe", AUDIO, device="cpu"), lambda: predictor_identity("rmvpe")):
        with pytest.raises(MissingWeights, match=r"pretrain/rmvpe\.pt"):
            ask()


def test_a_file_of_another_network_is_refused(workspace):
    path = write_rmvpe(workspace)
    state = rmvpe_state()
    del state["cnn.weight"]
    for content in (state, {**rmvpe_state(), "cnn.bias": torch.zeros(7)}, {"model": [1]}):
        torch.save(content, path)
        with pytest.raises(
            CheckpointError, match=r"rmvpe\.pt: (not the weights of rmvpe|does not fit).*download\.py rmvpe"
        ):
            build_predictor("rmvpe", AUDIO, device="cpu")


@pytest.mark.parametrize("protocol", [0, 2])
def test_a_file_that_would_run_code_is_refused_and_does_not_run(workspace, protocol):
    marker = workspace / "it_ran"
    path = write_rmvpe(workspace)

    class Payload:
        def __reduce__(self):
            return (marker.write_text, ("!",))

    with path.open("wb") as file:
        pickle.dump({"model": Payload()}, file, protocol=protocol)
    with pytest.raises(CheckpointError, match=r"rmvpe\.pt"):
        build_predictor("rmvpe", AUDIO, device="cpu")
    torch.save({"model": {**rmvpe_state(), "more": Payload()}}, path)
    with pytest.raises(CheckpointError, match=r"rmvpe\.pt.*could run code"):
        build_predictor("rmvpe", AUDIO, device="cpu")
    assert not marker.exists()
