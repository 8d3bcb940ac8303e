"""WavLM against transformers; its settings are parsed and never evaluated."""

import json
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_rule import GOLDENS, rule_value
from signals import babble
from small_encoders import noise

from modules.encoders._networks.hubert import HubertNetwork, rename
from modules.encoders.base import build_encoder
from modules.encoders.wavlm import WavLmBasePlus, parse_layers
from modules.errors import CheckpointError


@pytest.fixture
def build(small_encoders, tmp_path, monkeypatch):
    """Builds the encoder on the small model, with some of its settings changed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("modules.pretrained.find.CODE_ROOT", tmp_path / "nowhere")
    monkeypatch.setattr(WavLmBasePlus, "dim", 128)
    (tmp_path / "pretrain").mkdir()

    def build(**settings):
        content = torch.load(small_encoders / "wavlm/small.pt", weights_only=True)
        content["cfg"] |= settings
        torch.save(content, tmp_path / "pretrain/WavLM-Base+.pt")
        return build_encoder("wavlmbase+", "cpu")

    return build


@pytest.mark.parametrize("length", [400, 1039, 6000, 12345])
def test_the_units_equal_transformers(build, length):
    features = np.load(GOLDENS / "wavlm" / "features.npz")
    units = build().encode(noise(length))
    torch.testing.assert_close(units, torch.from_numpy(features[str(length)].T), atol=1e-4, rtol=0)


def test_in_bf16_the_units_are_nearly_the_same(build):
    encoder, wav = build(), babble(12345)
    wanted = encoder.encode(wav)
    encoder.lower(torch.bfloat16)
    assert 0 < (encoder.encode(wav) - wanted).norm() / wanted.norm() < 0.03


def test_the_clip_is_normed_where_the_file_asks_for_it(build):
    plain, normed = build(), build(normalize=True)
    wav = babble(8000)
    scaled = (wav - wav.mean()) / np.sqrt(wav.var() + 1e-5)
    torch.testing.assert_close(normed.encode(wav), plain.encode(scaled), atol=1e-4, rtol=0)
    # Almost: the norm adds 1e-5 to the variance.
    torch.testing.assert_close(normed.encode(wav), normed.encode(wav / 4), atol=0.05, rtol=0)
    assert (plain.encode(wav) - plain.encode(wav / 4)).abs().max() > 0.1


def test_a_batch_gives_each_clip_its_own_numbers(build):
    encoder = build()
    clips = [babble(9000)[:n] for n in (9000, 4000, 100, 9000)]
    for clip, units in zip(clips, encoder.encode_batch(clips), strict=True):
        torch.testing.assert_close(units, encoder.encode(clip), atol=2e-5, rtol=0)


def test_the_farthest_distance_is_read_from_the_file(build):
    wav = babble(16000)
    assert (build().encode(wav) - build(max_distance=10).encode(wav)).abs().max() > 1e-3


def test_hubert_under_wavlms_name_is_refused(build, small_encoders, tmp_path):
    build()
    hubert = (small_encoders / "fairseq/base.pt").read_bytes()
    (tmp_path / "pretrain/WavLM-Base+.pt").write_bytes(hubert)
    with pytest.raises(CheckpointError, match="no relative positions"):
        build_encoder("wavlmbase+", "cpu")


def test_settings_are_lists_and_nothing_else(tmp_path):
    path = Path("x.pt")
    expected = [(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2
    assert parse_layers("[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2", path) == expected
    assert parse_layers("[(512, 10, 5), (512, 3, 2)]", path) == expected[:2]
    marker = tmp_path / "ran"
    for text in (
        f"__import__('os').mkdir({str(marker)!r})",
        "[(1,2)]",
        "[(1,2,3)] * 10 ** 9",
        "",
        "[x]",
        "[1]",
        "[(1,2,3",
    ):
        with pytest.raises(CheckpointError, match=r"x\.pt: its settings describe the convolutions"):
            parse_layers(text, path)
    assert not marker.exists()


def test_settings_that_contradict_the_tensors_are_refused(build):
    with pytest.raises(CheckpointError, match=r"announce convolutions \[\(8,10,5\)\]"):
        build(conv_feature_layers="[(8,10,5)]")


def test_the_published_keys_and_shapes_make_the_full_network():
    path = GOLDENS / "statedicts" / "encoders.json.xz"
    shapes = json.loads(lzma.decompress(path.read_bytes()))["wavlm_base_plus"]
    filled = {key: torch.from_numpy(rule_value(key, tuple(shape))) for key, shape in shapes.items()}
    network = HubertNetwork(rename(filled, "fairseq"), Path("wavlm.pt"))
    assert network(torch.zeros(1, 1680), [1680])[0].shape == (768, 5)
