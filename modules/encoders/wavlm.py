"""`wavlmbase+`: WavLM, a HuBERT with gated relative positions."""

import ast
import re
from pathlib import Path

import torch
import torch.nn.functional as F

from modules.encoders._networks.hubert import HubertNetwork, rename
from modules.encoders.base import ENCODERS
from modules.encoders.hubert import HubertEncoder
from modules.errors import CheckpointError
from modules.pretrained.catalogue import weights_of
from modules.weights.foreign import load_foreign, plain
from modules.weights.state_dict import state_dict

_TERM = re.compile(r"\s*(\[[^\[\]]*\])\s*(?:\*\s*(\d{1,3}))?\s*")


@ENCODERS.register("wavlmbase+")
class WavLmBasePlus(HubertEncoder):
    """The end of the network. The whole clip is normed first where the file's settings say so.

    Source: Chen and others, "WavLM: Large-Scale Self-Supervised Pre-Training for Full Stack Speech Processing", 2021,
    arXiv 2110.13900, section IV-A.
    """

    name = "wavlmbase+"
    dim = 768
    weights = weights_of("wavlm")

    def _load(self, path: Path) -> HubertNetwork:
        content = load_foreign(path)
        config = plain(content.get("cfg", {}))
        self.normed = bool(config.get("normalize"))
        weights = rename(state_dict(content, path), "fairseq")
        network = HubertNetwork(weights, path, int(config.get("max_distance", 800)))
        if network.is_exact_when_padded:
            raise CheckpointError(f"{path}: has no relative positions, so it is not WavLM. Download WavLM-Base+.pt.")
        announced = config.get("conv_feature_layers")
        convs = [block.conv for block in network.network.feature_extractor.conv_layers]
        found = [(conv.out_channels, conv.kernel_size[0], conv.stride[0]) for conv in convs]
        if announced is not None and parse_layers(str(announced), path) != found:
            raise CheckpointError(f"{path}: its settings announce convolutions {announced}, its tensors are {found}")
        return network

    def _pad(self, wav: torch.Tensor) -> torch.Tensor:
        return super()._pad(F.layer_norm(wav, wav.shape) if self.normed else wav)


def parse_layers(text: str, path: Path) -> list[tuple[int, int, int]]:
    """(channels, kernel, stride) of each convolution, from a sum of lists: `[(512,10,5)] + [(512,3,2)] * 4`. The text
    is read as data and never evaluated; anything else in it is refused."""
    layers: list[tuple[int, int, int]] = []
    for term in text.split("+"):
        match = _TERM.fullmatch(term)
        try:
            items = ast.literal_eval(match[1]) if match else None
            layers += [tuple(map(int, item)) for item in items] * int(match[2] or 1)
        except (ValueError, SyntaxError, TypeError):
            items = None
        if items is None or any(len(layer) != 3 for layer in layers):
            raise CheckpointError(f"{path}: its settings describe the convolutions as {text[:80]!r}, which is no list")
    return layers
