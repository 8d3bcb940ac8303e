"""A config.json made again with other flags, in which the edits that its user made by hand stay."""

from dataclasses import dataclass
from typing import Any

from modules.config.io import parse_config
from modules.config.presets import PRESETS, preset_values

# Keys of `model` by which a network is known to be of a preset, and what else the flags decide.
_SIZES = (
    "inter_channels hidden_channels n_layers upsample_initial_channel discriminator_channels use_depthwise_conv"
).split()
_OF_ENCODER = ("speech_encoder", "ssl_dim")
_OF_FLAGS = ("vol_embedding", "use_transformer_flow")

Values = dict[str, Any]


@dataclass(frozen=True)
class Design:
    """What the flags say of a network."""

    preset: str
    encoder: str
    encoder_dim: int
    with_volume: bool = False
    with_transformer: bool = False

    @classmethod
    def of(cls, model: Values) -> "Design":
        """What the section `model` of a config was most probably made with."""
        encoder, width = model["speech_encoder"], model["ssl_dim"]

        def likeness(preset: str) -> int:
            found = cls(preset, encoder, width).config()["model"]
            return sum(found[key] == model[key] for key in _SIZES)

        return cls(max(PRESETS, key=likeness), encoder, width, *(model[key] for key in _OF_FLAGS))

    def config(self) -> Values:
        """A new config without speakers, all keys given."""
        values = preset_values(self.preset, self.encoder, self.encoder_dim)
        values["model"]["vol_embedding"] = self.with_volume
        values.setdefault("train", {})["vol_aug"] = self.with_volume
        if self.with_transformer:
            values["model"].update({"use_transformer_flow": True, "flow_share_parameter": True})
        return parse_config(values).model_dump(mode="json")


def keep_edits(old: Values | None, design: Design) -> tuple[Values, list[str]]:
    """The config of a design with the edits of an old one, and what differs of it, "train.batch_size 6 -> 4", where it
    describes another network.

    An edit is a value that the flags which the old one was made with do not give. Where the flags ask for another
    preset or encoder now, edits of what they decide are lost, and are among the differences.
    """
    new = design.config()
    if old is None:
        return new, []
    before = Design.of(old["model"])
    made = before.config()
    decided = set(_OF_FLAGS)
    if (design.encoder, design.encoder_dim) != (before.encoder, before.encoder_dim):
        decided |= {*_OF_ENCODER, "gin_channels", "filter_channels"}
    if design.preset != before.preset:
        decided |= {key for key in new["model"] if made["model"].get(key) != new["model"][key]} | set(_SIZES)
    result = {**old, **{key: value for key, value in new.items() if key not in old}}
    for section, values in new.items():
        if not isinstance(values, dict) or section == "spk":
            continue
        edits = {
            key: value
            for key, value in old[section].items()
            if (key not in made[section] or value != made[section][key])
            and not (section == "model" and key in decided)
            and (section, key) != ("train", "vol_aug")
        }
        order = [*old[section], *(key for key in values if key not in old[section])]
        merged = {**values, **edits}
        result[section] = {key: merged[key] for key in order}
    pairs = [(section, key) for section in ("model", "train", "data") for key in new[section]]
    changes = [(f"{s}.{k}", old[s].get(k), result[s][k]) for s, k in pairs if old[s].get(k) != result[s][k]]
    ignored = ("model.n_speakers", "data.training_files", "data.validation_files")
    changes = [f"{name} {was} -> {now}" for name, was, now in changes if name not in ignored]
    return result, changes
