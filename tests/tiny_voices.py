"""A workspace that training can run in within a second a step: sung tones, made-up units, a very small model."""

from pathlib import Path

import numpy as np
import soundfile
import torch
from signals import sung

from modules.config.io import parse_config, save_config
from modules.config.schema import Config
from modules.contracts import F0
from modules.data.extraction import extract
from modules.data.features import FeatureRecipe
from modules.data.filelist import write_list

RATE = 44100
MODEL = {
    "inter_channels": 8,
    "hidden_channels": 8,
    "filter_channels": 16,
    "n_layers": 1,
    "gin_channels": 4,
    "ssl_dim": 6,
    "n_speakers": 2,
    "upsample_initial_channel": 32,
    "n_flow_layer": 1,
    "discriminator_channels": 32,
    "use_depthwise_conv": True,
    "vol_embedding": True,
    "speech_encoder": "fake",
}
TRAIN = {"batch_size": 2, "segment_size": 4096, "learning_rate": 1e-3, "eval_interval": 1000, "log_interval": 1000}


class FakeEncoder:
    """Units (6, T // 320): seeded noise, smooth over time."""

    name, dim, sampling_rate, hop_length = "fake", 6, 16000, 320

    def encode(self, wav: np.ndarray) -> torch.Tensor:
        generator = torch.Generator().manual_seed(len(wav))
        return torch.randn(6, len(wav) // 320, generator=generator).cumsum(1) / 5


class FakePredictor:
    """Always 220 Hz."""

    name = "dio"

    def predict(self, wav: np.ndarray) -> F0:
        n = len(wav) // 512
        return F0(np.full(n, 220, np.float32), np.ones(n, np.float32))


def tiny_config(model: dict | None = None, **train) -> Config:
    """A checked config; `model` and `train` replace single values."""
    return parse_config(
        {"train": {**TRAIN, **train}, "model": {**MODEL, **(model or {})}, "spk": {"alto": 0, "bass": 1}}
    )


def make_clip(path: Path, seconds: float, pitch: float = 220.0) -> Path:
    """A sung tone with its features beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sung(np.full(int(seconds * RATE), pitch), RATE), RATE)
    recipe = FeatureRecipe("fake:1", "dio", tiny_config().audio, with_volume=True)
    extract(path, recipe, FakeEncoder(), FakePredictor())
    return path


def make_workspace(folder: Path, n_clips: int = 4, model: dict | None = None, **train) -> Config:
    """Clips of half a second by two speakers, both lists, and configs/config.json below `folder`."""
    clips = []
    for index in range(n_clips):
        name = Path("dataset/44k") / ("alto", "bass")[index % 2] / f"clip {index}.wav"
        make_clip(folder / name, 0.5 + 0.05 * index, 200 + 20 * index)
        clips.append(name)
    write_list(folder / "filelists/train.txt", clips)
    write_list(folder / "filelists/val.txt", clips[:1])
    config = tiny_config(model, **train)
    save_config(config, folder / "configs/config.json")
    return config
