"""A file that wants to run something when it is read is refused by every loader there is, and its payload does not run.

A new loader of weights gets a row here.
"""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from damage import Payload

from cluster.index_files import read_pickled_index
from cluster.kmeans import load_centres
from compress_model import compress
from diffusion.unit2mel import load_unit2mel
from modules.config.audio import AudioSpec
from modules.config.diffusion import DiffusionConfig
from modules.encoders.base import build_encoder
from modules.errors import CheckpointError, DataError
from modules.f0.base import build_predictor
from modules.metrics.speaker import load_speaker_encoder
from modules.weights.checkpoint import load_weights
from modules.weights.foreign import load_foreign

AUDIO = AudioSpec(44100, 2048, 512, 2048, 80, 0.0, 22050.0)


def read_units(path: Path) -> None:
    from modules.data.feature_files import read_file

    read_file(path.with_name("x.wav"), "units", (None, None))


def read_vocoder(path: Path) -> None:
    from vdecoder.mel_vocoder import load_vocoder

    mel = {"sampling_rate": 44100, "num_mels": 8, "n_fft": 64, "win_size": 64, "hop_size": 8, "fmin": 40, "fmax": 16000}
    ups = {"upsample_rates": [4, 2], "upsample_kernel_sizes": [8, 4], "upsample_initial_channel": 4}
    blocks = {"resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1]]}
    path.with_name("config.json").write_text(json.dumps(mel | ups | blocks))
    load_vocoder("pretrain/nsf_hifigan/model", torch.device("cpu"))


# Where the file lies -> what reads it.
LOADERS = {
    "pretrain/checkpoint_best_legacy_500.pt": lambda path: build_encoder("vec768l12", "cpu"),
    "pretrain/hubert-soft-0d54a1f4.pt": lambda path: build_encoder("hubertsoft", "cpu"),
    "pretrain/chinese-hubert-large-fairseq-ckpt.pt": lambda path: build_encoder("cnhubertlarge", "cpu"),
    "pretrain/DPHuBERT-sp0.75.pth": lambda path: build_encoder("dphubert", "cpu"),
    "pretrain/WavLM-Base+.pt": lambda path: build_encoder("wavlmbase+", "cpu"),
    "pretrain/medium.pt": lambda path: build_encoder("whisper-ppg", "cpu"),
    "pretrain/base.pt": lambda path: build_encoder("whisper-ppg-base", "cpu"),
    "pretrain/rmvpe.pt": lambda path: build_predictor("rmvpe", AUDIO, device="cpu"),
    "pretrain/fcpe.pt": lambda path: build_predictor("fcpe", AUDIO, device="cpu"),
    "pretrain/nsf_hifigan/model": read_vocoder,
    "logs/44k/diffusion/model_100.pt": lambda path: load_unit2mel(path, DiffusionConfig(), 128, torch.device("cpu")),
    "logs/44k/G_100.pth": load_weights,
    "logs/44k/D_100.pth": load_weights,
    "logs/44k/G_release.pth": lambda path: compress(path, None, ""),
    "logs/44k/kmeans_10000.pt": load_centres,
    "logs/44k/feature_and_index.pkl": read_pickled_index,
    "dataset/44k/alto/x.wav.soft.pt": read_units,
    "pretrain/speaker_encoder/pretrained.pt": lambda path: load_speaker_encoder(path, "cpu"),
    "anything.pt": load_foreign,
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", LOADERS)
def test_the_payload_does_not_run(place, zipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("modules.pretrained.find.CODE_ROOT", tmp_path)
    marker, path = tmp_path / "ran", tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {"model": {"weight": torch.zeros(3)}, "cfg": {"deep": [Payload(os.mkdir, str(marker))]}}
    torch.save(weights, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises((CheckpointError, DataError), match=path.name.replace("+", r"\+")):
        LOADERS[place](path)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_payload_in_a_plain_pickle_does_not_run(protocol, tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "feature_and_index.pkl"
    path.write_bytes(pickle.dumps({0: Payload(os.mkdir, str(marker))}, protocol))
    with pytest.raises(CheckpointError, match=r"feature_and_index\.pkl: refused, it holds more .*mkdir"):
        read_pickled_index(path)
    assert not marker.exists()


def test_the_payload_would_run_if_it_were_unpickled(tmp_path):
    marker = tmp_path / "ran"
    pickle.loads(pickle.dumps({"x": Payload(os.mkdir, str(marker))}))  # the attack itself
    assert marker.exists()
