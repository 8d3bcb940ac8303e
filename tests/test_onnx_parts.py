"""Exported diffusion parts and speech encoders compute what torch computes."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from signals import babble
from tiny_diffusion import diffusion_config

import onnx_export
from diffusion.samplers.base import levels
from diffusion.unit2mel import build_unit2mel, load_unit2mel
from modules.config.diffusion import save_diffusion_config
from modules.encoders.base import ENCODERS, build_encoder
from modules.encoders.onnx import OnnxEncoder
from modules.errors import MissingWeights, UsageError, UserError
from modules.pretrained.find import Weights
from modules.weights.checkpoint import save_weights

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, with nothing in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def export(*flags: object) -> None:
    assert onnx_export.main([str(flag) for flag in flags]) == 0


def save_diffusion(spk: dict[str, int], **model):
    config = diffusion_config(model)
    config.spk = spk
    save_diffusion_config(config, "config.yaml")
    network = build_unit2mel(config, 20)
    torch.nn.init.normal_(network.decoder.denoise_fn.output_projection.weight, std=0.1)
    save_weights("model_1.pt", {"global_step": 1, "model": network.state_dict()})
    return load_unit2mel("model_1.pt", config, 20, CPU)


@pytest.mark.parametrize("n_speakers", [1, 2])
def test_the_parts_of_a_diffusion_model_walk_the_chain_as_our_sampler_does(folder, n_speakers, caplog):
    network = save_diffusion({"alto": 0, "bass": 1} if n_speakers == 2 else {"alto": 0}, n_spk=n_speakers)
    with caplog.at_level(logging.INFO):
        export("--diffusion", "model_1.pt", "-o", "song.onnx", "--check")
    assert caplog.text.count("good") == 12
    parts = {name: runtime.InferenceSession(f"song_{name}.onnx") for name in ("encoder", "denoise", "pred", "after")}
    inputs = [given.name for given in parts["encoder"].get_inputs()]
    assert inputs == ["hubert", "mel2ph", "f0", "volume", *["spk_mix"][: n_speakers - 1]]

    def run(part: str, *values: np.ndarray) -> np.ndarray:
        names = [given.name for given in parts[part].get_inputs()]
        return parts[part].run(None, dict(zip(names, values, strict=True)))[0]

    n_frames = 33
    units, f0, volume = torch.randn(1, 6, n_frames), 100 + 300 * torch.rand(1, n_frames), torch.rand(1, n_frames)
    weights = torch.rand(1, n_speakers, n_frames)
    mix = [weights[0].T.numpy()] if n_speakers > 1 else []
    aligned = np.arange(1, n_frames + 1)[None]
    condition = run("encoder", units.transpose(1, 2).numpy(), aligned, f0.numpy(), volume.numpy(), *mix)
    wanted = network.condition(units, f0, volume, weights)
    np.testing.assert_allclose(condition, wanted.numpy(), atol=1e-4)

    x = torch.randn(1, 1, 20, n_frames)
    # With one guess for each step the transfer is the step of DDIM.
    expected = network.decoder.sample(wanted, 100, "ddim", 20, noise=x)
    mel = x.numpy()
    for level, following in levels(100, 20):
        time, time_prev = np.array([level]), np.array([following])
        mel = run("pred", mel, run("denoise", mel, time, condition), time, time_prev)
    # Natural-log mels of up to 12, after five steps one upon the other.
    np.testing.assert_allclose(run("after", mel), expected.numpy(), atol=1e-3)


def test_diffusion_files_are_not_replaced_either(folder):
    save_diffusion({"alto": 0}, n_spk=1)
    Path("model_1_pred.onnx").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"model_1_pred\.onnx: already exists"):
        onnx_export.main(["--diffusion", "model_1.pt"])
    with pytest.raises(UserError, match=r"gone\.pt|config\.yaml"):
        onnx_export.main(["--diffusion", "elsewhere/gone.pt"])
    assert not list(folder.glob("*_encoder.onnx"))


@pytest.mark.parametrize(
    ("name", "fixture", "dim", "layer"),
    [
        ("vec768l12", "fairseq/base.pt", 128, 3),
        ("vec256l9", "fairseq/base.pt", 24, 2),
        ("cnhubertlarge", "fairseq/large.pt", 128, None),
        ("wavlmbase+", "wavlm/small.pt", 128, None),
    ],
)
def test_an_encoders_file_hears_what_the_encoder_hears(folder, monkeypatch, small_encoders, name, fixture, dim, layer):
    monkeypatch.setattr("modules.pretrained.find.CODE_ROOT", folder / "nowhere")
    kind = ENCODERS.get(name)
    monkeypatch.setattr(kind, "dim", dim)
    monkeypatch.setattr(kind, "layer", layer)
    Path("pretrain").mkdir()
    with pytest.raises(MissingWeights):
        export("--encoder", name)
    Path(kind.weights[0].path).write_bytes((small_encoders / fixture).read_bytes())
    export("--encoder", name, "--check")
    compare_encoders(name, onnx_export.encoder_file(name), dim, 20000)
    if name.startswith("vec"):
        twin = ENCODERS.get(f"{name}-onnx")
        monkeypatch.setattr(twin, "dim", dim)
        wav = babble(9000)
        torch.testing.assert_close(
            build_encoder(f"{name}-onnx", "cpu").encode(wav), build_encoder(name, "cpu").encode(wav), atol=1e-4, rtol=0
        )


def compare_encoders(name: str, path: Path, width: int, n_samples: int) -> None:
    """The file, read as the registered ONNX encoders read theirs, against the encoder itself."""

    class Twin(OnnxEncoder):
        dim, weights = width, (Weights(path.as_posix(), "nowhere"),)

    wav = babble(n_samples)
    found, wanted = Twin("cpu").encode(wav), build_encoder(name, "cpu").encode(wav)
    assert found.shape == wanted.shape
    # Whisper's units reach 20; rounding is in proportion.
    torch.testing.assert_close(found, wanted, atol=1e-4 * max(1, wanted.abs().max().item()), rtol=0)


def test_the_whisper_that_comes_with_the_repository_is_exported(folder):
    export("--encoder", "whisper-ppg-base")
    compare_encoders("whisper-ppg-base", Path("pretrain/whisper-ppg-base.onnx"), 512, 23456)


def test_an_encoder_that_is_a_graph_already_is_refused(folder):
    with pytest.raises(UsageError, match="is an ONNX file already"):
        export("--encoder", "vec768l12-onnx", "-o", "new.onnx")
