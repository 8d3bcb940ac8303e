"""A config made again with other flags, in which the edits that its user made by hand stay."""

from dataclasses import dataclass, replace
from typing import Any

from modules.config.diffusion import parse_diffusion_config
from modules.config.io import parse_config, to_plain
from modules.config.presets import DIFFUSION_PRESETS, PRESETS, preset_values
from modules.config.schema import Config, DataConfig
from modules.text import quote

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

    @property
    def flags(self) -> list[str]:
        """The flags of preprocess_flist_config.py that give it."""
        chosen = {
            f"--{self.preset}": self.preset != "base",
            "--vol_aug": self.with_volume,
            "--tf_flow": self.with_transformer,
        }
        return [*(flag for flag, is_on in chosen.items() if is_on), "--speech_encoder", self.encoder]

    def config(self) -> Values:
        """A new config without speakers, all keys given."""
        values = preset_values(self.preset, self.encoder, self.encoder_dim)
        values["model"]["vol_embedding"] = self.with_volume
        values.setdefault("train", {})["vol_aug"] = self.with_volume
        if self.with_transformer:
            values["model"].update({"use_transformer_flow": True, "flow_share_parameter": True})
        return parse_config(values).model_dump(mode="json")


def command_of(config: Config, encoder: str | None = None) -> str:
    """The command of step 2 that gives a config, or the same with another encoder; edits in the file stay."""
    design = Design.of(config.model.model_dump())
    words = replace(design, encoder=encoder or design.encoder).flags
    usual = DataConfig()
    for flag, key in (("--train_list", "training_files"), ("--val_list", "validation_files")):
        if (name := getattr(config.data, key)) != getattr(usual, key):
            words += [flag, name]
    return " ".join(["python preprocess_flist_config.py", *map(quote, words)])


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
    decided_keys = {"model": decided, "train": {"vol_aug"}}
    return _merged(old, made, new, decided_keys, ("model.n_speakers", "data.training_files", "data.validation_files"))


def keep_diffusion_edits(old: Values | None, preset: str) -> tuple[Values, list[str]]:
    """As `keep_edits`, of a diffusion.yaml, where encoder and speakers change no edit."""
    sizes = "n_layers", "n_chans", "n_hidden", "k_step_max"
    presets = {name: to_plain(parse_diffusion_config(values)) for name, values in DIFFUSION_PRESETS.items()}
    new = presets[preset]
    if old is None:
        return new, []

    def likeness(name: str) -> tuple[int, bool]:
        return sum(presets[name]["model"][key] == old["model"][key] for key in sizes), name == preset

    before = presets[max(presets, key=likeness)]
    decided = {"model": set(sizes)} if before != new else {}
    return _merged(old, before, new, decided, ())


def _merged(
    old: Values, made: Values, new: Values, decided: dict[str, set[str]], unnamed: tuple[str, ...]
) -> tuple[Values, list[str]]:
    """`new`, with what differs in `old` from what it was `made` as, but for the keys of a section that are `decided`;
    and how that differs from `old`, without the `unnamed`."""
    result, changes = {**old, **{key: value for key, value in new.items() if key not in old}}, []
    for section, values in new.items():
        if not isinstance(values, dict) or section == "spk":
            continue
        given = made[section]
        edits = {
            key: value
            for key, value in old[section].items()
            if (key not in given or value != given[key]) and key not in decided.get(section, ())
        }
        merged = {**values, **edits}
        result[section] = {key: merged[key] for key in {**old[section], **values}}  # in the order of the old one
        pairs = [(key, old[section].get(key), merged[key]) for key in values if f"{section}.{key}" not in unnamed]
        changes += [f"{section}.{key} {was} -> {now}" for key, was, now in pairs if was != now]
    return result, changes
