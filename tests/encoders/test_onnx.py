"""ONNX encoders run small graphs made here: one strided convolution in place of the real network."""

import sys

import numpy as np
import pytest
import torch
from signals import babble

from modules.encoders.base import build_encoder, encoder_dim
from modules.errors import CheckpointError, MissingWeights, UsageError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

FILES = {
    "vec256l9-onnx": "vec-256-layer-9.onnx",
    "vec256l12-onnx": "vec-256-layer-12.onnx",
    "vec768l9-onnx": "vec-768-layer-9.onnx",
    "vec768l12-onnx": "vec-768-layer-12.onnx",
    "hubertsoft-onnx": "hubert-soft.onnx",
}


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A folder that is searched alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("modules.pretrained.find.CODE_ROOT", tmp_path / "nowhere")
    (tmp_path / "pretrain").mkdir()
    return tmp_path / "pretrain"


def write_graph(path, width: int) -> np.ndarray:
    """Saves a graph (1, 1, T) -> (1, N', width) and returns its kernels (width, 1, 400)."""
    kernels = np.random.default_rng(0).standard_normal((width, 1, 400)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("Conv", ["source", "kernels"], ["channels"], strides=[320]),
        onnx.helper.make_node("Transpose", ["channels"], ["embed"], perm=[0, 2, 1]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "encoder",
        [onnx.helper.make_tensor_value_info("source", onnx.TensorProto.FLOAT, [1, 1, "samples"])],
        [onnx.helper.make_tensor_value_info("embed", onnx.TensorProto.FLOAT, [1, "frames", width])],
        [onnx.numpy_helper.from_array(kernels, "kernels")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return kernels


@pytest.mark.parametrize("name", FILES)
def test_the_graphs_output_comes_back_channel_first(weights, name):
    kernels = write_graph(weights / FILES[name], encoder_dim(name))
    wav = babble(16000)
    expected = torch.conv1d(torch.from_numpy(wav)[None, None], torch.from_numpy(kernels), stride=320)[0]
    units = build_encoder(name, "cpu").encode(wav)
    assert units.shape == (encoder_dim(name), 49)
    torch.testing.assert_close(units, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("n_samples", [32000, 32079, 32080, 32399])
def test_long_audio_goes_through_in_windows_with_the_same_result(weights, monkeypatch, n_samples):
    write_graph(weights / FILES["vec256l9-onnx"], 256)
    encoder, wav = build_encoder("vec256l9-onnx", "cpu"), babble(32400)[:n_samples]
    whole = encoder.encode(wav)
    monkeypatch.setattr("modules.encoders.onnx.WINDOW_FRAMES", 30)
    monkeypatch.setattr("modules.encoders.onnx.CONTEXT_FRAMES", 3)
    lengths, run = [], encoder._run
    monkeypatch.setattr(encoder, "_run", lambda part: lengths.append(len(part)) or run(part))
    torch.testing.assert_close(encoder.encode(wav), whole, atol=1e-4, rtol=1e-4)
    assert len(lengths) > 3 and max(lengths) <= 32 * 320


@pytest.mark.parametrize("n_samples, n_frames", [(0, 0), (1, 1), (399, 1), (400, 1), (720, 2)])
def test_short_audio_gives_at_least_one_frame(weights, n_samples, n_frames):
    write_graph(weights / FILES["hubertsoft-onnx"], 256)
    assert build_encoder("hubertsoft-onnx", "cpu").encode(babble(720)[:n_samples]).shape == (256, n_frames)


def test_the_graph_of_another_encoder_is_refused(weights):
    write_graph(weights / FILES["vec768l12-onnx"], 256)
    with pytest.raises(CheckpointError, match=r"vec-768-layer-12.onnx: gives \[1, 49, 256\].*768"):
        build_encoder("vec768l12-onnx", "cpu").encode(babble(16000))


@pytest.mark.parametrize("content", [b"", b"not a graph", b"<html>404</html>"])
def test_a_damaged_file_is_refused_by_name(weights, content):
    (weights / FILES["vec256l9-onnx"]).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"vec-256-layer-9.onnx: not a usable ONNX file"):
        build_encoder("vec256l9-onnx", "cpu")


def test_without_onnxruntime_the_error_says_what_to_install(weights, monkeypatch):
    write_graph(weights / FILES["vec256l9-onnx"], 256)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"pip install -r requirements-extras\.txt"):
        build_encoder("vec256l9-onnx", "cpu")


def test_a_missing_file_is_named(weights):
    with pytest.raises(MissingWeights, match=r"pretrain/vec-768-layer-9\.onnx"):
        build_encoder("vec768l9-onnx", "cpu")
