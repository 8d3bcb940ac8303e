"""A diffusion workspace that trains within milliseconds a step, on the clips of `tiny_voices`."""

import json
from pathlib import Path

import torch
from tiny_voices import FakeEncoder, FakePredictor, make_workspace, tiny_config

from modules.config.diffusion import DiffusionConfig, parse_diffusion_config, save_diffusion_config
from modules.config.vocoder import PUBLISHED_MEL, VocoderConfig
from modules.data.extraction import extract
from modules.data.features import FeatureRecipe
from vdecoder.mel_vocoder import build_vocoder

VOCODER = {
    "sampling_rate": 44100,
    "num_mels": 128,
    "n_fft": 2048,
    "win_size": 2048,
    "hop_size": 512,
    "fmin": 40,
    "fmax": 16000,
    "upsample_rates": [16, 32],
    "upsample_kernel_sizes": [32, 64],
    "upsample_initial_channel": 32,
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]],
}
MODEL = {"n_layers": 2, "n_chans": 16, "n_hidden": 8, "n_spk": 2, "timesteps": 100}
TRAIN = {"batch_size": 2, "interval_val": 1000, "interval_log": 1000, "lr": 1e-3, "cache_fp16": False}


def diffusion_config(model: dict | None = None, infer: dict | None = None, **train) -> DiffusionConfig:
    """A checked config; `model`, `infer` and `train` replace single values."""
    return parse_diffusion_config(
        {
            "data": {"encoder": "fake", "encoder_out_channels": 6, "duration": 0.3, "unit_interpolate_mode": "nearest"},
            "model": {**MODEL, **(model or {})},
            "infer": infer or {},
            "train": {**TRAIN, **train},
            "spk": {"alto": 0, "bass": 1},
        }
    )


def make_diffusion_workspace(folder: Path, n_clips: int = 4, **config) -> DiffusionConfig:
    """`make_workspace` with the features of --use_diff and configs/diffusion.yaml."""
    make_workspace(folder, n_clips)
    recipe = FeatureRecipe("fake:1", "dio", tiny_config().audio, with_volume=True, mel=PUBLISHED_MEL)
    for clip in sorted((folder / "dataset/44k").glob("*/*.wav")):
        extract(clip, recipe, FakeEncoder(), FakePredictor())
    made = diffusion_config(**config)
    save_diffusion_config(made, folder / "configs/diffusion.yaml")
    return made


def make_vocoder_files(folder: Path, **changes) -> Path:
    """A small vocoder, untrained, as published ones are stored; returns the path of its weights."""
    values = {**VOCODER, **changes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values), "utf-8")
    torch.manual_seed(1)
    torch.save({"generator": build_vocoder(VocoderConfig(**values)).state_dict()}, folder / "model")
    return folder / "model"
