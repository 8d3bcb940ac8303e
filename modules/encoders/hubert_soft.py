"""`hubertsoft`: HuBERT with soft speech units."""

from pathlib import Path

from modules.encoders._networks.hubert import HOP, RECEPTIVE_FIELD, HubertNetwork, rename
from modules.encoders.base import ENCODERS
from modules.encoders.hubert import HubertEncoder
from modules.pretrained.catalogue import weights_of
from modules.weights.foreign import load_foreign
from modules.weights.state_dict import state_dict


@ENCODERS.register("hubertsoft")
class HubertSoft(HubertEncoder):
    """All layers, then a projection to 256; silence at both ends makes it T // 320 frames.

    Source: van Niekerk and others, "A Comparison of Discrete and Soft Speech Units for Improved Voice Conversion",
    2021, arXiv 2111.02392.
    """

    name = "hubertsoft"
    dim = 256
    projected = True
    padding = (RECEPTIVE_FIELD - HOP) // 2
    weights = weights_of("hubertsoft")

    def _load(self, path: Path) -> HubertNetwork:
        return HubertNetwork(rename(state_dict(load_foreign(path), path), "soft"), path)
