"""Every speech encoder whose weights are here keeps the same promises."""

import gc
import importlib
import sys
import weakref
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from signals import babble

from modules.encoders import base
from modules.encoders.base import ENCODERS, SpeechEncoder, build_encoder, encoder_dim, encoder_identity
from modules.errors import AudioError, MissingWeights, UsageError

NAMES = ENCODERS.names()


@cache
def encoder(name: str) -> SpeechEncoder:
    try:
        return build_encoder(name, "cpu")
    except MissingWeights as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", NAMES)
def test_units_have_the_encoders_width_and_50_frames_a_second(name):
    wav = babble(16000)
    before = wav.copy()
    units = encoder(name).encode(wav)
    assert units.shape[0] == encoder_dim(name) and units.shape[1] in (49, 50) and units.dtype == torch.float32
    assert encoder(name).dim == encoder_dim(name) and encoder(name).name == name
    np.testing.assert_array_equal(wav, before)
    assert not units.is_inference() and not units.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_the_same_audio_gives_the_same_units(name):
    wav = babble(8000)
    assert encoder(name).encode(wav).equal(encoder(name).encode(wav))


@pytest.mark.parametrize("n_samples, n_frames", [(0, 0), (1, 1), (319, 1), (320, 1), (1600, 5), (16319, 50)])
@pytest.mark.parametrize("name", NAMES)
def test_short_audio_works(name, n_samples, n_frames):
    units = encoder(name).encode(babble(16319)[:n_samples])
    # Convolutions without padding see 400 samples at once, so the HuBERT family may be a frame short.
    assert units.shape[0] == encoder_dim(name) and n_frames - 1 <= units.shape[1] <= n_frames
    assert units.shape[1] or not n_samples
    assert units.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_silence_gives_finite_units(name):
    assert encoder(name).encode(np.zeros(16000, np.float32)).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_bad_audio_is_refused(name):
    with pytest.raises(AudioError, match="not finite"):
        encoder(name).encode(np.full(1000, np.inf, np.float32))
    with pytest.raises(ValueError, match="one channel"):
        encoder(name).encode(np.zeros((2, 1000), np.float32))


def test_the_embedded_encoder_is_there():
    assert encoder("whisper-ppg-base").encode(babble(1600)).shape == (512, 5)
    assert encoder_identity("whisper-ppg-base").startswith("whisper-ppg-base:")


def test_one_in_use_is_shared_until_nobody_holds_it(monkeypatch):
    monkeypatch.setattr(base, "_LOADED", weakref.WeakValueDictionary())
    first = build_encoder("whisper-ppg-base", "cpu")
    assert build_encoder("whisper-ppg-base", torch.device("cpu")) is first
    units, kept = first.encode(babble(1600)), weakref.ref(first)
    del first
    gc.collect()
    assert kept() is None and torch.equal(build_encoder("whisper-ppg-base", "cpu").encode(babble(1600)), units)


def test_the_embedded_encoder_in_bf16_is_another_with_nearly_the_same_units():
    plain, lowered = (build_encoder("whisper-ppg-base", "cpu", dtype) for dtype in (torch.float32, torch.bfloat16))
    assert plain is not lowered and build_encoder("whisper-ppg-base", "cpu", torch.bfloat16) is lowered
    wanted, found = (one.encode(babble(32000)) for one in (plain, lowered))
    assert found.dtype == torch.float32
    assert 0 < (found - wanted).norm() / wanted.norm() < 0.03  # its weights, in 8 bits, are 0.025 off themselves


def test_every_name_of_so_vits_svc_is_there_with_its_width():
    assert {name: encoder_dim(name) for name in NAMES} == {
        "cnhubertlarge": 1024,
        "dphubert": 768,
        "hubertsoft": 256,
        "hubertsoft-onnx": 256,
        "vec256l12-onnx": 256,
        "vec256l9": 256,
        "vec256l9-onnx": 256,
        "vec768l12": 768,
        "vec768l12-onnx": 768,
        "vec768l9-onnx": 768,
        "wavlmbase+": 768,
        "whisper-ppg": 1024,
        "whisper-ppg-base": 512,
        "whisper-ppg-large": 1280,
        "whisper-ppg-small": 768,
        "whisper-ppg-tiny": 384,
    }


def test_an_unknown_encoder_lists_the_known_ones():
    for function in (encoder_dim, lambda name: build_encoder(name, "cpu")):
        with pytest.raises(UsageError, match=r"Did you mean whisper-ppg-base.*whisper-ppg-large"):
            function("whisper-ppg-bass")


def test_missing_weights_name_the_file_and_the_source(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("modules.pretrained.find.CODE_ROOT", tmp_path)
    with pytest.raises(MissingWeights, match=r"pretrain/medium.pt: not found .*https://.*medium.pt"):
        build_encoder("whisper-ppg", "cpu")


def test_the_example_in_the_docs_is_a_whole_encoder(monkeypatch, tmp_path):
    readme = (Path(__file__).resolve().parents[2] / "docs/extending.md").read_text("utf-8")
    example = readme.split("`modules/encoders/myvec.py`:\n```python\n")[1].split("```")[0]

    class Model(torch.nn.Module):
        def forward(self, wav):
            return torch.zeros(1, wav.shape[-1] // 320, 512)

    monkeypatch.setitem(sys.modules, "myvec", SimpleNamespace(load_model=lambda path: Model()))
    monkeypatch.chdir(tmp_path)
    ENCODERS.names()
    monkeypatch.setattr(ENCODERS, "_entries", dict(ENCODERS._entries))
    (tmp_path / "plug.py").write_text(example, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("plug")
    with pytest.raises(MissingWeights, match=r"pretrain/myvec\.pt"):
        build_encoder("myvec", "cpu")
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain/myvec.pt").touch()
    assert build_encoder("myvec", "cpu").encode(np.zeros(16000, dtype=np.float32)).shape == (512, 50)
    assert encoder_dim("myvec") == 512
