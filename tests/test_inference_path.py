"""The way of a song from the command line to the network: few frames, and each file is read once."""

import traceback
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from signals import sung
from tiny_voices import tiny_config

import assemble
import inference_main
from models import SynthesizerTrn, build_synthesizer
from modules.config.io import save_config
from modules.device import computes_bf16
from modules.f0.histogram import PitchHistogram
from modules.weights.checkpoint import save_weights

FLAGS = ["-n", "song.wav", "-s", "bass", "-f0p", "dio", "-d", "cpu", "-m", "logs/44k/G_1.pth"]
LONGEST_PATH = 8  # main and Voice.infer included


class FakeEncoder:
    """Units of zeros."""

    name, dim, sampling_rate, hop_length = "vec256l9", 256, 16000, 320

    def encode(self, wav: np.ndarray) -> torch.Tensor:
        return torch.zeros(256, max(1, len(wav) // 320))

    def encode_batch(self, wavs: list[np.ndarray]) -> list[torch.Tensor]:
        return [self.encode(wav) for wav in wavs]


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A small real voice, whose card has its notes, and a song of two segments."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(assemble, "build_encoder", lambda *_: FakeEncoder())
    monkeypatch.setattr(inference_main, "require_parts", lambda *names, **named: None)
    config = tiny_config({"ssl_dim": 256, "speech_encoder": "vec256l9"})
    Path("raw").mkdir()
    save_config(config, "logs/44k/config.json")
    notes = PitchHistogram.from_curve(np.full(500, 220.0), np.ones(500)).to_plain()
    card = {"name": "small", "f0_histograms": {"bass": notes}}
    save_weights("logs/44k/G_1.pth", {"model": build_synthesizer(config).state_dict(), "card": card})
    tone = sung(np.full(6 * 44100, 220.0), 44100)
    soundfile.write("raw/song.wav", np.concatenate([tone, np.zeros(44100), tone]), 44100)


@pytest.mark.parametrize("batched", [False, True])
def test_from_main_to_the_network_it_is_a_short_way(workspace, monkeypatch, batched):
    def fail(*args, **kwargs):
        raise LookupError("in the network")

    method = "infer_batch" if batched else "infer"
    monkeypatch.setattr(SynthesizerTrn, method, fail)
    if batched:  # as on a GPU
        pipeline = assemble.Pipeline
        monkeypatch.setattr(assemble, "Pipeline", lambda **parts: pipeline(**{**parts, "batch_frames": 4096}))
    with pytest.raises(LookupError) as caught:
        inference_main.main(FLAGS)
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    path = names[names.index("main") : len(names) - names[::-1].index(method)]
    assert path[0] == "main" and path[-1] == method and len(path) <= LONGEST_PATH, " -> ".join(path)


def test_a_voice_file_is_loaded_once_for_weights_card_and_notes(workspace, monkeypatch):
    loaded, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda path, **options: loaded.append(Path(path)) or load(path, **options))
    assert inference_main.main([*FLAGS, "-t", "auto"]) == 0
    assert loaded == [Path("logs/44k/G_1.pth")]
    (result,) = Path("results").glob("song*.flac")
    assert "small" in soundfile.SoundFile(result).copy_metadata()["comment"]


@pytest.mark.parametrize(
    ("native", "precision", "wanted"),
    [
        (True, "auto", torch.bfloat16),
        (False, "auto", torch.float32),
        (True, None, torch.float32),  # so-vits-svc's samples
        (False, "bf16", torch.bfloat16),
    ],
)
def test_precision_auto_is_bf16_where_the_processor_computes_it(monkeypatch, native, precision, wanted):
    monkeypatch.setattr(assemble, "computes_bf16", lambda device: native and device.type == "cpu")
    request = assemble.VoiceRequest(Path("G_1.pth"), None, precision=precision)
    assert assemble._choose_precision(request, torch.device("cpu")) == wanted


def test_a_conversion_runs_in_the_precision_that_is_asked_for(workspace, caplog):
    with caplog.at_level("INFO", logger="assemble"):
        assert inference_main.main([*FLAGS, "--precision", "bf16"]) == 0
    assert "on cpu in bfloat16, loaded" in caplog.text


@pytest.mark.parametrize(("precision", "wanted"), [("auto", torch.bfloat16), (None, torch.float32)])
def test_the_content_encoder_is_in_the_voices_precision(workspace, monkeypatch, precision, wanted):
    asked = []
    monkeypatch.setattr(assemble, "computes_bf16", lambda device: True)
    monkeypatch.setattr(assemble, "build_encoder", lambda *given: asked.append(given) or FakeEncoder())
    assert inference_main.main([*FLAGS, *(["--precision", precision] if precision else [])]) == 0
    assert asked == [("vec256l9", torch.device("cpu"), wanted)]


def test_only_a_processor_with_such_instructions_computes_bf16(monkeypatch):
    cpu = torch.device("cpu")
    for found, wanted in (({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_bf16": False}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found, raising=False)
        assert computes_bf16(cpu) == wanted
        assert not computes_bf16(torch.device("cuda"))
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not computes_bf16(cpu)
