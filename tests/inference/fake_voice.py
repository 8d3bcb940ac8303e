"""A converter made of stand-ins: its output is the loudness curve of its input, so that every sample can be predicted.

16 kHz, hop 160. The encoder gives the loudness of each 20 ms, the synthesizer draws it as a line.
"""

from pathlib import Path

import numpy as np
import torch

from modules.config.audio import AudioSpec
from modules.contracts import F0, Synthesis
from modules.inference.converter import VoiceConverter
from modules.inference.pipeline import Pipeline

AUDIO = AudioSpec(16000, 640, 160, 640, 20, 0.0, 8000.0)


class FakeEncoder:
    name, dim, sampling_rate, hop_length = "fake", 2, 16000, 320

    def __init__(self, calls: list):
        self.calls = calls

    def encode(self, wav):
        self.calls.append(("encode", len(wav)))
        n_frames = max(1, len(wav) // self.hop_length)
        frames = np.resize(wav, n_frames * self.hop_length).reshape(n_frames, self.hop_length)
        loudness = torch.from_numpy(np.sqrt((frames**2).mean(axis=1)))
        return torch.stack([loudness, torch.zeros(n_frames)])

    def for_stream(self):
        return self


class FakePredictor:
    name = "fake"

    def __init__(self, calls: list):
        self.calls = calls

    def predict(self, wav):
        self.calls.append(("predict", len(wav)))
        n_frames = AUDIO.n_frames(len(wav))
        return F0(np.full(n_frames, 200, np.float32), np.ones(n_frames, np.float32))


class FakeSynthesizer:
    latent_channels = 4

    def __init__(self, calls: list):
        self.calls = calls
        self.fails_at_call = None
        self.seen = []

    def infer(self, units, f0, uv, speaker, volume, noise_scale, predict_f0, needed=None, draws=None):
        self.calls.append(("infer", units.shape[1]))
        self.seen.append({"speaker": speaker, "volume": volume, "f0": f0, "predict_f0": predict_f0})
        if self.fails_at_call == len(self.seen):
            raise RuntimeError("can't allocate memory: you tried to allocate 10 bytes")
        assert units.shape[1] == len(f0) == len(uv)
        curve = units[:1, None].float()
        wav = torch.nn.functional.interpolate(curve, scale_factor=AUDIO.hop_length, mode="linear")[0, 0]
        if needed is not None:  # what nobody needs must reach nobody
            frames = wav.view(-1, AUDIO.hop_length)
            frames[: needed.start] = frames[needed.stop :] = 1e3
        return Synthesis(wav, f0)


def fake_converter(**changes) -> tuple[VoiceConverter, FakeSynthesizer, list]:
    """A converter with two speakers, its synthesizer, and the list that its calls are written to."""
    calls = []
    synthesizer = FakeSynthesizer(calls)
    parts = {
        "synthesizer": synthesizer,
        "encoder": FakeEncoder(calls),
        "predictor": FakePredictor(calls),
        "audio": AUDIO,
        "speakers": {"alto": 0, "tenor": 1},
        "device": torch.device("cpu"),
        "unit_interpolate_mode": "nearest",
    }
    return VoiceConverter(Pipeline(**{**parts, **changes})), synthesizer, calls


def sung(seconds: float, rate: int, seed: int = 0) -> np.ndarray:
    """A tone whose loudness wanders slowly between about 0.2 and 0.5."""
    time = np.arange(round(seconds * rate)) / rate
    level = 0.5 + 0.2 * np.sin(2 * np.pi * 0.11 * time + seed)
    return (level * np.sin(2 * np.pi * 220 * time)).astype(np.float32)


def silence(seconds: float, rate: int) -> np.ndarray:
    return np.zeros(round(seconds * rate), np.float32)


def folder_listing(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
