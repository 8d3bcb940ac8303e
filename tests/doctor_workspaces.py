"""A workspace as steps 1 to 3 leave it, nothing wrong in it: sung tones, made-up units of a real encoder's width."""

from pathlib import Path

import numpy as np
import soundfile
import torch
from signals import formant_voice
from tiny_training import SMALL_DECODER
from tiny_voices import MODEL, TRAIN

from modules.config.io import load_config, parse_config, save_config
from modules.config.schema import Config
from modules.contracts import F0
from modules.data.extraction import extract
from modules.data.features import FeatureRecipe
from modules.data.filelist import write_list
from modules.data.pitch import write_histograms
from modules.doctor.findings import Finding

RATE, WIDTH, ENCODER = 44100, 512, "whisper-ppg-base"
CONFIG, DATA, LOGS = Path("configs/config.json"), Path("dataset/44k"), Path("logs")
PITCHES = {"alto": 300.0, "bass": 120.0}  # Hz


class Encoder:
    """Units (512, T // 320): seeded noise."""

    name, dim, sampling_rate, hop_length = ENCODER, WIDTH, 16000, 320

    def encode(self, wav: np.ndarray) -> torch.Tensor:
        return torch.randn(WIDTH, len(wav) // 320, generator=torch.Generator().manual_seed(len(wav)))


class Predictor:
    """Hears one pitch, whatever sounds."""

    name = "fcpe"

    def __init__(self, pitch: float) -> None:
        self.pitch = pitch

    def predict(self, wav: np.ndarray) -> F0:
        n = len(wav) // 512
        return F0(np.full(n, self.pitch, np.float32), np.ones(n, np.float32))


def recipe(config: Config, **changes: object) -> FeatureRecipe:
    values = {"encoder": f"{ENCODER}:1", "predictor": "fcpe:1", "with_volume": config.model.vol_embedding, **changes}
    return FeatureRecipe(audio=config.audio, unit_width=WIDTH, **values)


def write_clip(path: Path, pitch: float, seconds: float = 0.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, formant_voice(np.full(int(seconds * RATE), pitch), RATE), RATE)
    return path


def add_features(clip: Path, config: Config, pitch: float, **changes: object) -> None:
    extract(clip, recipe(config, **changes), Encoder(), Predictor(pitch))


def make_config(**train: object) -> Config:
    """A very small voice for the included encoder."""
    model = {**MODEL, **SMALL_DECODER, "speech_encoder": ENCODER, "ssl_dim": WIDTH}
    return parse_config(
        {"train": {**TRAIN, "eval_interval": 200, **train}, "model": model, "spk": {"alto": 0, "bass": 1}}
    )


def make_workspace(n_clips: int = 5, with_features: bool = True) -> Config:
    """Clips of half a second by two speakers, lists, config and features in the current folder."""
    config = make_config()
    clips = [
        write_clip(DATA / speaker / f"{index}.wav", pitch)
        for speaker, pitch in PITCHES.items()
        for index in range(n_clips)
    ]
    for clip in clips if with_features else ():
        add_features(clip, config, PITCHES[clip.parent.name])
    if with_features:
        write_histograms(DATA, clips)
    kept = [clip for clip in clips if clip.name == "0.wav"]
    write_list(Path("filelists/train.txt"), [clip for clip in clips if clip not in kept])
    write_list(Path("filelists/val.txt"), kept)
    save_config(config, CONFIG)
    return config


def change_config(section: str, **values: object) -> Config:
    """Writes other values into config.json, unchecked as an editor does it, and returns it if it can be read."""
    import json

    content = json.loads(CONFIG.read_text("utf-8"))
    (content if section == "" else content[section]).update(values)
    CONFIG.write_text(json.dumps(content), "utf-8")
    return load_config(CONFIG)


def by_kind(found: list[Finding], kind: str) -> list[Finding]:
    return [finding for finding in found if finding.kind == kind]


def bad(found: list[Finding]) -> list[str]:
    """What is more than a fact, as text."""
    return [f"{finding.level} {finding.kind} {finding}" for finding in found if finding.level != "info"]


def the_one(found: list[Finding], kind: str) -> Finding:
    """The one finding that is more than a fact, which is of that kind."""
    (finding,) = [one for one in found if one.level != "info"]
    assert finding.kind == kind, finding
    return finding
