"""Small separators with random weights, as their makers write them. Without pymss-core their tests are skipped."""

import sys
import types
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("pymss_core", reason="requirements-separation.txt is not installed")

SECONDS = Fraction(1, 8)  # of a segment
RATE = 44100  # Hz
STEMS = ["drums", "bass", "other", "vocals"]
_HTDEMUCS = dict(
    channels=8, depth=2, nfft=512, t_layers=1, t_heads=2, bottom_channels=8, norm_groups=2, samplerate=RATE
)
_ROFORMER = dict(
    dim=8, depth=1, stereo=True, num_stems=1, time_transformer_depth=1, freq_transformer_depth=1, dim_head=4, heads=2
)
_ROFORMER |= dict(stft_n_fft=512, stft_hop_length=128, stft_win_length=512, mask_estimator_depth=2, flash_attn=True)


def write_htdemucs(path: Path, seed: int = 0, klass: str = "HTDemucs", **changes) -> Path:
    """A package as facebookresearch/demucs pickles it: its class by name, fractions, weights in half precision."""
    from pymss_core.modules.demucs4ht import HTDemucs

    torch.manual_seed(seed)
    settings = {**_HTDEMUCS, "sources": STEMS, "segment": SECONDS, **changes}
    network = HTDemucs(**settings)
    module = types.ModuleType(f"demucs.{klass.lower()}")
    setattr(module, klass, type(klass, (), {"__module__": module.__name__}))
    state = {name: value.half() for name, value in network.state_dict().items()}
    sys.modules |= {"demucs": types.ModuleType("demucs"), module.__name__: module}
    try:
        content = {"klass": getattr(module, klass), "args": (), "kwargs": {**settings, "old_setting": 1}}
        torch.save({**content, "state": state, "training_args": {"epochs": 1}}, path)
    finally:
        del sys.modules["demucs"], sys.modules[module.__name__]
    return path


def write_roformer(path: Path, kind: str = "mel", stem: str = "vocals", seed: int = 0, **changes) -> Path:
    """A `.ckpt` and its yaml as Music-Source-Separation-Training writes them; `changes` of the section `model`."""
    from pymss_core.modules.bs_roformer import BSRoformer, MelBandRoformer

    torch.manual_seed(seed)
    bands = {"num_bands": 12, "sample_rate": RATE} if kind == "mel" else {"freqs_per_bands": (2,) * 20 + (217,)}
    model = {**_ROFORMER, **bands, **changes}
    # The trainings of MelBand RoFormers make as many hidden layers as the yaml says, those of BS-RoFormers one less.
    hidden = {"mlp_hidden_layers": model["mask_estimator_depth"]} if kind == "mel" else {}
    network = (MelBandRoformer if kind == "mel" else BSRoformer)(**model, **hidden)
    torch.save(network.state_dict(), path)
    training = {"instruments": [stem, "rest"], "target_instrument": stem, "lr": 1e-5}
    if model["num_stems"] > 1:
        training = {"instruments": [stem, "rest"], "target_instrument": None}
    audio = {"chunk_size": 10000, "sample_rate": RATE, "num_channels": 2}
    extra = {"multi_stft_resolutions_window_sizes": (4096, 2048), "linear_transformer_depth": 0}
    settings = {"audio": audio, "model": {**model, **extra}, "training": training, "inference": {"num_overlap": 4}}
    path.with_suffix(".yaml").write_text(yaml.dump(settings), encoding="utf-8")  # with !!python/tuple
    return path
