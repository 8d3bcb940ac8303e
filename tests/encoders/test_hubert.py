"""The HuBERT family against fairseq, upstream's numbers and plain restatements of what its papers say."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_rule import load_golden, rule_value, tensor
from signals import babble
from small_encoders import noise

from modules.encoders import hubert
from modules.encoders._networks.hubert import HubertNetwork, _convolve_and_norm, rename
from modules.encoders.base import ENCODERS, build_encoder
from modules.errors import CheckpointError
from modules.weights.foreign import load_foreign
from modules.weights.state_dict import state_dict

LENGTHS = (400, 1039, 6000, 6321)


@pytest.fixture(scope="module")
def features() -> dict[str, np.ndarray]:
    """What fairseq computes, made by `make_fairseq_fixture.py`."""
    return load_golden("fairseq/features")


@pytest.fixture
def weights(tmp_path, monkeypatch) -> Path:
    """A pretrain folder that is searched alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("modules.pretrained.find.CODE_ROOT", tmp_path / "nowhere")
    (tmp_path / "pretrain").mkdir()
    return tmp_path / "pretrain"


@pytest.fixture
def small(small_encoders, weights, monkeypatch):
    """Builds a registered encoder on one of fairseq's small models, its width and layer made to fit."""

    def build(name: str, fixture: str, dim: int, layer: int | None):
        kind = ENCODERS.get(name)
        (weights.parent / kind.weights[0].path).write_bytes((small_encoders / f"fairseq/{fixture}.pt").read_bytes())
        monkeypatch.setattr(kind, "dim", dim)
        monkeypatch.setattr(kind, "layer", layer)
        return build_encoder(name, "cpu")

    return build


@pytest.mark.parametrize("name", ["base", "large"])
def test_in_bf16_products_are_rounded_and_nothing_else(small_encoders, features, name):
    path = small_encoders / f"fairseq/{name}.pt"
    ours = HubertNetwork(rename(state_dict(load_foreign(path), path), "fairseq"), path)
    wav = torch.from_numpy(noise(LENGTHS[-1]))[None]
    with torch.inference_mode():
        wanted = ours(wav, [LENGTHS[-1]])[0]
        ours.lower(torch.bfloat16)
        found = ours(wav, [LENGTHS[-1]])[0]
    assert found.dtype == torch.float32
    assert 0 < (found - wanted).norm() / wanted.norm() < 0.03
    kept = {weight.dtype for key, weight in ours.named_parameters() if "norm" in key or "conv_layers.0" in key}
    assert kept == {torch.float32}


@pytest.mark.parametrize("layer", [1, 2, 3, None])
@pytest.mark.parametrize("name", ["base", "large"])
def test_every_layer_equals_fairseqs(small_encoders, features, name, layer):
    path = small_encoders / f"fairseq/{name}.pt"
    ours = HubertNetwork(rename(state_dict(load_foreign(path), path), "fairseq"), path)
    for length in LENGTHS:
        wav = torch.from_numpy(noise(length))[None]
        expected = torch.from_numpy(features[f"{name}_{length}_{layer or 'end'}"].T)
        torch.testing.assert_close(ours(wav, [length], layer)[0], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "name, fixture, dim, layer, key",
    [
        ("vec768l12", "base", 128, 3, "3"),
        ("vec256l9", "base", 24, 2, "2_projected"),
        ("cnhubertlarge", "large", 128, None, "end"),
    ],
)
def test_the_encoders_give_the_layer_and_projection_of_their_names(small, features, name, fixture, dim, layer, key):
    encoder = small(name, fixture, dim, layer)
    for length in LENGTHS:
        expected = torch.from_numpy(features[f"{fixture}_{length}_{key}"].T)
        torch.testing.assert_close(encoder.encode(noise(length)), expected, atol=1e-4, rtol=0)


def test_the_full_size_network_equals_upstreams_numbers():
    golden = load_golden("rule/hubert_base_full")
    shapes = [tuple(map(int, text.split("x"))) for text in golden["param_shapes"].tolist()]
    filled = {key: tensor(rule_value(key, shape)) for key, shape in zip(golden["param_keys"].tolist(), shapes)}
    ours = HubertNetwork(rename(filled, "fairseq"), Path("filled.pt"))
    wav = tensor(golden["in_wav16k_int16"].astype(np.float32) / 32768)[None]
    layer9 = ours(wav, [16000], 9)[0]
    found = {
        "vec768l12": ours(wav, [16000], 12)[0],
        "layer9_768": layer9,
        "vec256l9": ours.final_proj(layer9.T).T,
        "conv_features": ours.convolve(wav, [16000])[0][0].T,
    }
    for key, value in found.items():
        expected = tensor(golden[key][0])
        torch.testing.assert_close(value, expected, atol=1e-4 * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize("fixture", ["base", "large"])
def test_a_clip_in_a_batch_gets_the_numbers_that_it_gets_alone(small, fixture):
    name = {"base": "vec768l12", "large": "cnhubertlarge"}[fixture]
    encoder = small(name, fixture, 128, 3 if fixture == "base" else None)
    clips = [babble(16000)[:n] for n in (16000, 5000, 399, 0, 7321, 16000)]
    for clip, units in zip(clips, encoder.encode_batch(clips), strict=True):
        torch.testing.assert_close(units, encoder.encode(clip), atol=2e-5, rtol=0)


@pytest.mark.parametrize("smoothness", [1, 4000])
def test_the_norm_of_the_first_convolution_is_that_of_its_output_without_the_padding(smoothness):
    """Of a smooth wave, filters leave little, and an offset leaves nothing."""
    torch.manual_seed(0)
    conv, norm = torch.nn.Conv1d(1, 12, 10, 5, bias=False), torch.nn.GroupNorm(12, 12)
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    time, counts = torch.arange(4000.0), [799, 500]
    x = 0.3 + torch.stack([torch.sin(time * 2 / smoothness), torch.sin(time / smoothness)])[:, None]
    with torch.no_grad():
        found = _convolve_and_norm(conv, norm, x, counts)
        conv, norm = conv.double(), norm.double()
        for clip, result, count in zip(x, found, counts):
            wanted = norm(conv(clip[None].double())[:, :, :count])[0]
            torch.testing.assert_close(result[:, :count].double(), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("n_samples, n_frames", [(0, 0), (1, 1), (399, 1), (400, 1), (719, 1), (720, 2), (16000, 49)])
def test_the_number_of_frames_is_the_convolutions(small, n_samples, n_frames):
    encoder = small("vec768l12", "base", 128, 3)
    units = encoder.encode(babble(16000)[:n_samples])
    assert units.shape == (128, n_frames) and units.isfinite().all()


def test_silence_gives_finite_units_and_the_same_ones_each_time(small):
    encoder = small("vec768l12", "base", 128, 3)
    units = encoder.encode(np.zeros(8000, np.float32))
    assert units.isfinite().all() and units.equal(encoder.encode(np.zeros(8000, np.float32)))


def test_long_audio_goes_through_in_windows_that_fit_together(small, monkeypatch, caplog):
    """The group norm sees a window instead of the clip, so a little is lost; on even material it is very little."""
    caplog.set_level(logging.INFO)
    encoder = small("cnhubertlarge", "large", 128, None)
    wav = babble(5 * 16000 + 777)
    whole = encoder.encode(wav)
    assert not caplog.records
    monkeypatch.setattr(hubert, "WINDOW_FRAMES", 120)
    monkeypatch.setattr(hubert, "CONTEXT_FRAMES", 30)
    windows = encoder.encode(wav)
    assert windows.shape == whole.shape and "in windows of a minute" in caplog.text
    assert torch.cosine_similarity(windows, whole, dim=0).min() > 0.98


@pytest.mark.parametrize(
    "name, change, text",
    [
        ("vec768l12", {"dim": 768, "layer": 3}, "gives units 128 wide, vec768l12 needs 768"),
        ("vec768l12", {"dim": 128, "layer": 12}, "has 3 layers, vec768l12 needs layer 12"),
        ("vec256l9", {"dim": 256, "layer": 2}, "gives units 24 wide, vec256l9 needs 256"),
    ],
)
def test_another_model_under_the_name_is_refused(small, name, change, text):
    with pytest.raises(CheckpointError, match=text):
        small(name, "base", **change)


def test_an_incomplete_file_names_the_tensor(small_encoders):
    path = small_encoders / "fairseq/base.pt"
    tensors = state_dict(load_foreign(path), path)
    gone = {key: value for key, value in tensors.items() if key != "encoder.layers.1.fc2.weight"}
    with pytest.raises(CheckpointError, match=r"layers\.1\.feed_forward\.output_dense\.weight is missing"):
        HubertNetwork(rename(gone, "fairseq"), path)
    with pytest.raises(CheckpointError, match="no network of the HuBERT family"):
        HubertNetwork(rename({"something.else": torch.zeros(3)}, "fairseq"), path)
    wrong = {**tensors, "layer_norm.weight": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"layer_norm\.weight is \[3\] but \[16\] is expected"):
        HubertNetwork(rename(wrong, "fairseq"), path)
