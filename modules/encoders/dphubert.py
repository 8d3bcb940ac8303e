"""`dphubert`: HuBERT distilled and pruned to a quarter of its size."""

from pathlib import Path

from modules.encoders._networks.hubert import HubertNetwork
from modules.encoders.base import ENCODERS
from modules.encoders.hubert import HubertEncoder
from modules.errors import CheckpointError
from modules.pretrained.catalogue import weights_of
from modules.weights.foreign import load_foreign, plain
from modules.weights.state_dict import state_dict


@ENCODERS.register("dphubert")
class DpHubert(HubertEncoder):
    """The end of a network whose layers have few heads or none. so-vits-svc ran it in training mode; this does not."""

    name = "dphubert"
    dim = 768
    weights = weights_of("dphubert")

    def _load(self, path: Path) -> HubertNetwork:
        content = load_foreign(path)
        config = plain(content.get("config", {}))
        if "encoder_remaining_heads" in config:
            raise CheckpointError(
                f"{path}: is a pruned WavLM (its config has encoder_remaining_heads), dphubert needs a pruned HuBERT. "
                "Download DPHuBERT-sp0.75.pth."
            )
        return HubertNetwork(state_dict(content, path), path, pre_norm=bool(config.get("encoder_layer_norm_first")))
