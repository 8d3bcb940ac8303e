"""HuBERT-Soft against a plain restatement of its paper's network with torch's own layers."""

import json
import lzma
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_rule import rule_value
from signals import babble
from torch import nn

from modules.encoders._networks.hubert import HubertNetwork, rename
from modules.encoders.base import build_encoder
from modules.encoders.hubert import HubertSoft

WIDTH, INNER, LAYERS, CHANNELS, OUT = 128, 96, 2, 16, 24
# The published names, weight_g and weight_v, are those of torch's older weight norm.
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)


class Reference(nn.Module):
    """The network as it was published, by its own names."""

    def __init__(self) -> None:
        super().__init__()
        channels = [1] + [CHANNELS] * 7
        self.feature_extractor = nn.Module()
        for index, (kernel, stride) in enumerate(zip(KERNELS, STRIDES)):
            conv = nn.Conv1d(channels[index], channels[index + 1], kernel, stride, bias=False)
            setattr(self.feature_extractor, f"conv{index}", conv)
        self.feature_extractor.norm0 = nn.GroupNorm(CHANNELS, CHANNELS)
        self.feature_projection = nn.Module()
        self.feature_projection.norm = nn.LayerNorm(CHANNELS)
        self.feature_projection.projection = nn.Linear(CHANNELS, WIDTH)
        self.positional_embedding = nn.Module()
        conv = nn.Conv1d(WIDTH, WIDTH, 32, padding=16, groups=4)
        self.positional_embedding.conv = nn.utils.weight_norm(conv, dim=2)
        self.norm = nn.LayerNorm(WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, WIDTH // 64, INNER, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, LAYERS)
        self.proj = nn.Linear(WIDTH, OUT)

    def forward(self, wav: torch.Tensor) -> torch.Tensor:
        x = F.pad(wav, (40, 40))[None, None]
        for index in range(7):
            x = getattr(self.feature_extractor, f"conv{index}")(x)
            x = F.gelu(self.feature_extractor.norm0(x) if index == 0 else x)
        x = self.feature_projection.projection(self.feature_projection.norm(x.transpose(1, 2)))
        x = self.norm(x + F.gelu(self.positional_embedding.conv(x.transpose(1, 2))[..., :-1]).transpose(1, 2))
        return self.proj(self.encoder(x))[0].T


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """The reference with random weights, and the encoder that read them from a file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("modules.pretrained.find.CODE_ROOT", tmp_path / "nowhere")
    monkeypatch.setattr(HubertSoft, "dim", OUT)
    (tmp_path / "pretrain").mkdir()
    torch.manual_seed(0)
    reference = Reference().eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    weights = {f"module.{name}": value for name, value in reference.state_dict().items()}
    weights |= {"module.masked_spec_embed": torch.zeros(WIDTH), "module.label_embedding.weight": torch.zeros(5, OUT)}
    torch.save({"hubert": weights, "step": 3}, "pretrain/hubert-soft-0d54a1f4.pt")
    return reference, build_encoder("hubertsoft", "cpu")


@pytest.mark.parametrize("length", [400, 1039, 6000, 16001])
def test_the_units_equal_the_reference(pair, length):
    reference, encoder = pair
    wav = babble(16001)[:length]
    with torch.no_grad():
        expected = reference(torch.from_numpy(wav))
    units = encoder.encode(wav)
    assert units.shape == (OUT, length // 320)
    torch.testing.assert_close(units, expected, atol=1e-4, rtol=0)


def test_short_silent_and_batched_clips_work(pair):
    _, encoder = pair
    clips = [babble(9000)[:n] for n in (9000, 319, 1, 5000)] + [np.zeros(3000, np.float32)]
    for clip, units in zip(clips, encoder.encode_batch(clips), strict=True):
        assert units.isfinite().all() and units.shape == (OUT, max(1, len(clip) // 320))
        torch.testing.assert_close(units, encoder.encode(clip), atol=2e-5, rtol=0)


def test_the_published_keys_and_shapes_make_the_full_network():
    path = Path(__file__).resolve().parent.parent / "goldens" / "statedicts" / "encoders.json.xz"
    shapes = json.loads(lzma.decompress(path.read_bytes()))["hubert_soft"]
    assert sum(math.prod(shape) for shape in shapes.values()) == 94594176
    filled = {key: torch.from_numpy(rule_value(key, tuple(shape))) for key, shape in shapes.items()}
    network = HubertNetwork(rename(filled, "soft"), Path("soft.pt"))
    assert network.n_layers == 12 and network.final_proj.out_features == 256
    assert network(torch.zeros(1, 1680), [1680])[0].shape == (768, 5)
