"""DPHuBERT: layers with few heads, without attention and without feed-forward, against a plain restatement."""

import json
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_rule import rule_value
from signals import babble

from modules.encoders._networks.hubert import HubertNetwork
from modules.encoders.base import build_encoder
from modules.encoders.dphubert import DpHubert
from modules.errors import CheckpointError

CONVS = ((12, 10, 5), (16, 3, 2), (16, 3, 2), (9, 3, 2), (16, 3, 2), (16, 2, 2), (14, 2, 2))
WIDTH = 192
LAYERS = ((3, 100), (1, 50), (0, 40), (2, 0), (0, 0))  # heads and inner width of each
LAYER = "encoder.transformer.layers.{}."


def shapes() -> dict[str, tuple[int, ...]]:
    found = {"feature_extractor.dummy_weight": (14,)}
    before = 1
    for index, (channels, kernel, _) in enumerate(CONVS):
        found[f"feature_extractor.conv_layers.{index}.conv.weight"] = (channels, before, kernel)
        before = channels
    norms = {
        "feature_extractor.conv_layers.0.layer_norm": 12,
        "encoder.feature_projection.layer_norm": 14,
        "encoder.transformer.layer_norm": WIDTH,
    }
    dense = {"encoder.feature_projection.projection": (WIDTH, 14)}
    conv = "encoder.transformer.pos_conv_embed.conv."
    found |= {conv + "bias": (WIDTH,), conv + "weight_g": (1, 1, 32), conv + "weight_v": (WIDTH, 48, 32)}
    for index, (heads, inner) in enumerate(LAYERS):
        prefix = LAYER.format(index)
        norms |= {prefix + "layer_norm": WIDTH, prefix + "final_layer_norm": WIDTH}
        if heads:
            dense |= {f"{prefix}attention.{part}_proj": (64 * heads, WIDTH) for part in "qkv"}
            dense[prefix + "attention.out_proj"] = (WIDTH, 64 * heads)
        if inner:
            dense[prefix + "feed_forward.intermediate_dense"] = (inner, WIDTH)
            dense[prefix + "feed_forward.output_dense"] = (WIDTH, inner)
    for name, shape in dense.items():
        found |= {name + ".weight": shape, name + ".bias": shape[:1]}
    for name, size in norms.items():
        found |= {name + ".weight": (size,), name + ".bias": (size,)}
    return found


def reference(w: dict[str, torch.Tensor], wav: torch.Tensor) -> torch.Tensor:
    """The network written out, one clip (T,) to (D, N')."""

    def dense(name, x):
        return F.linear(x, w[name + ".weight"], w[name + ".bias"])

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"])

    x = wav[None, None]
    for index, (_, _, stride) in enumerate(CONVS):
        name = f"feature_extractor.conv_layers.{index}."
        x = F.conv1d(x, w[name + "conv.weight"], stride=stride)
        if index == 0:
            x = F.group_norm(x, 12, w[name + "layer_norm.weight"], w[name + "layer_norm.bias"])
        x = F.gelu(x)
    x = x[0].T * w["feature_extractor.dummy_weight"]
    x = dense("encoder.feature_projection.projection", norm("encoder.feature_projection.layer_norm", x))
    v, g = (w[f"encoder.transformer.pos_conv_embed.conv.weight_{part}"] for part in "vg")
    kernel = v * g / v.square().sum(dim=(0, 1), keepdim=True).sqrt()
    bias = w["encoder.transformer.pos_conv_embed.conv.bias"]
    position = F.conv1d(x.T[None], kernel, bias, padding=16, groups=4)[0, :, :-1]
    x = norm("encoder.transformer.layer_norm", x + F.gelu(position).T)
    for index, (heads, inner) in enumerate(LAYERS):
        prefix = LAYER.format(index)
        if heads:
            q, k, value = (
                dense(f"{prefix}attention.{part}_proj", x).view(-1, heads, 64).transpose(0, 1) for part in "qkv"
            )
            share = torch.softmax(q @ k.transpose(1, 2) / 8, dim=-1)
            x = x + dense(prefix + "attention.out_proj", (share @ value).transpose(0, 1).flatten(1))
        x = norm(prefix + "layer_norm", x)
        if inner:
            inside = F.gelu(dense(prefix + "feed_forward.intermediate_dense", x))
            x = x + dense(prefix + "feed_forward.output_dense", inside)
        x = norm(prefix + "final_layer_norm", x)
    return x.T


@pytest.fixture
def build(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("modules.pretrained.find.CODE_ROOT", tmp_path / "nowhere")
    monkeypatch.setattr(DpHubert, "dim", WIDTH)
    (tmp_path / "pretrain").mkdir()
    weights = {name: torch.from_numpy(rule_value(name, shape)) for name, shape in shapes().items()}

    def build(config):
        torch.save({"config": config, "state_dict": weights}, "pretrain/DPHuBERT-sp0.75.pth")
        return build_encoder("dphubert", "cpu")

    return weights, build


@pytest.mark.parametrize("length", [400, 1039, 6000, 16001])
def test_thinned_layers_equal_the_formula(build, length):
    weights, encoder = build[0], build[1]({"encoder_layer_norm_first": False})
    wav = babble(16001)[:length]
    expected = reference(weights, torch.from_numpy(wav))
    torch.testing.assert_close(encoder.encode(wav), expected, atol=1e-4, rtol=0)


def test_in_bf16_the_units_are_nearly_the_same(build):
    encoder, wav = build[1]({"encoder_layer_norm_first": False}), babble(16001)
    wanted = encoder.encode(wav)
    encoder.lower(torch.bfloat16)
    assert 0 < (encoder.encode(wav) - wanted).norm() / wanted.norm() < 0.03


def test_units_are_repeatable_and_batches_exact(build):
    encoder = build[1]({"encoder_layer_norm_first": False, "encoder_dropout": 0.5, "encoder_layer_drop": 0.5})
    clips = [babble(9000)[:n] for n in (9000, 319, 5000)] + [np.zeros(3000, np.float32)]
    for clip, units in zip(clips, encoder.encode_batch(clips), strict=True):
        assert units.isfinite().all()
        torch.testing.assert_close(units, encoder.encode(clip), atol=2e-5, rtol=0)


def test_a_pruned_wavlm_is_refused_by_name(build):
    with pytest.raises(CheckpointError, match="is a pruned WavLM"):
        build[1]({"encoder_remaining_heads": [[1, 2]]})


def test_the_published_keys_fit():
    path = Path(__file__).resolve().parent.parent / "goldens" / "statedicts" / "encoders.json.xz"
    listed = json.loads(lzma.decompress(path.read_bytes()))["dphubert_pattern_2layer_example"]
    filled = {key: torch.from_numpy(rule_value(key, tuple(shape))) for key, shape in listed.items()}
    network = HubertNetwork(filled, Path("pruned.pth"))
    assert network(torch.zeros(1, 1680), [1680])[0].shape == (768, 5)
