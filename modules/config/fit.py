"""Whether a config belongs to a model: by the config inside the model, or by names and axes of its tensors."""

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from modules.config.diffusion import DiffusionModel
from modules.config.schema import ModelConfig, Section
from modules.errors import ConfigError
from modules.text import listing

logger = logging.getLogger(__name__)

_ONNX = "-onnx"  # ends the names of encoders that give the same units as those without it
Keys = Mapping[str, tuple[str, ...]]  # section -> keys in it

# What must be as it was when a voice was trained. No tensor's shape shows all of it.
_AUDIO = ("sampling_rate", "filter_length", "hop_length", "win_length", "unit_interpolate_mode")
_NO_SHAPE = {"n_layers_q", "speaker_embedding", "p_dropout"}  # keys of `model` that may change at any time
TRAINED_WITH: Keys = {"data": _AUDIO, "model": tuple(key for key in ModelConfig.model_fields if key not in _NO_SHAPE)}
# Of these, what a conversion does not depend on.
_ONLY_TRAINING = {"discriminator_channels", "use_spectral_norm", "use_automatic_f0_prediction"}
CONVERTS_WITH: Keys = TRAINED_WITH | {"model": tuple(key for key in TRAINED_WITH["model"] if key not in _ONLY_TRAINING)}
# The same for a diffusion model.
_UNITS = ("sampling_rate", "block_size", "encoder", "unit_interpolate_mode")
DIFFUSION_TRAINED_WITH: Keys = {"data": _UNITS}
DIFFUSION_CONVERTS_WITH: Keys = {
    "data": _UNITS,
    "model": tuple(key for key in DiffusionModel.model_fields if key != "type"),
    "vocoder": ("type",),
}

# Where a tensor's name matches, the config key that most likely explains its absence or its size along an axis.
_ABSENT_BECAUSE = (
    (r"emb_vol\.", "vol_embedding"),
    (r"f0_decoder\.(cond|prenet|proj|f0_prenet)", "use_automatic_f0_prediction"),
    (r"dec\..*(snake|activations)", "vocoder_name"),
    (r"flow\.wn\.", "flow_share_parameter"),
    (r"flow\..*(self_attn|ffn|norm|cond_pre)", "use_transformer_flow"),
    (r"flow\..*(depth_conv|point_conv)", "use_depthwise_conv"),
    (r"flow\..*in_layers", "use_depthwise_conv or use_transformer_flow"),
    (r"flow\.flows\.\d+\.(pre|post)", "n_flow_layer"),
    (r"(enc_p|f0_decoder)\..*layers", "n_layers"),
    (r"dec\.(resblocks|ups|noise_convs)", "upsample_rates, resblock or resblock_kernel_sizes"),
    (r"discriminators\..*weight_(orig|u|v|g)", "use_spectral_norm"),
)
_SIZED_BY = (
    (r"emb_g\.weight", 0, "n_speakers"),
    (r"emb_g\.weight", 1, "gin_channels"),
    (r".*cond(_layer)?\.weight(_v)?", 1, "gin_channels"),
    (r"pre\.weight", 1, "ssl_dim, the width of the units of model.speech_encoder"),
    (r"(pre|emb_vol)\.weight", 0, "hidden_channels"),
    (r"enc_p\.proj\.weight", 0, "inter_channels"),
    (r".*emb_rel_[kv]", 2, "n_heads"),
    (r".*ffn_layers\..*conv_1\.(weight|bias)", 0, "filter_channels"),
    (r".*ffn_layers\..*", 2, "kernel_size"),
    (r"dec\.(conv_pre|cond|ups\.0)\.\w+", 0, "upsample_initial_channel"),
    (r"dec\.(noise_convs|ups)\.", 2, "upsample_rates or upsample_kernel_sizes"),
    (r"dec\.resblocks\..*", 2, "resblock_kernel_sizes"),
    (r"dec\.", 0, "upsample_initial_channel"),
    (r"discriminators\..*bias", 0, "discriminator_channels"),
)
# Where the sizes of a voice, and of its discriminators, show in its tensors: name, axis, key, how often it is there.
_SHOWN_IN = (
    ("pre.weight", 0, "hidden_channels", 1),
    ("pre.weight", 1, "ssl_dim", 1),
    ("enc_p.proj.weight", 0, "inter_channels", 2),
    ("emb_g.weight", 1, "gin_channels", 1),
    ("enc_p.enc_.ffn_layers.0.conv_1.bias", 0, "filter_channels", 1),
    ("dec.conv_pre.bias", 0, "upsample_initial_channel", 1),
    ("discriminators.1.convs.4.bias", 0, "discriminator_channels", 1),
)
# Parts of which every tensor changes the sound: one that the network has no place for must not be dropped silently.
# Left out: the posterior encoder, the pitch decoder as a whole, and the second names of shared flow weights.
NOT_TO_IGNORE = ("emb_vol.", "pre.", "enc_p.", "dec.", "flow.flows.")


def likely_key(name: str, axes: tuple[int, ...]) -> str:
    """The `hint` for `modules.weights.state_dict.fit` of a voice: the config key that most likely explains a mismatch.

    `axes` are those along which the tensor `name` has another size; none where it is missing or has no place.
    """
    key = key_of(name, axes) or "another model section"
    return f"Likely cause: {key}. Correct it, or use the config.json that was saved with this model."


def key_of(name: str, axes: tuple[int, ...]) -> str | None:
    """That key itself."""
    table = [(pattern, key) for pattern, axis, key in _SIZED_BY if axis in axes] if axes else _ABSENT_BECAUSE
    return next((f"model.{key}" for pattern, key in table if re.match(pattern, name)), None)


def sizes_of(weights: Mapping[str, Any]) -> dict[str, int]:
    """The sizes of a voice or its discriminators, by their config keys."""
    return {
        f"model.{key}": weights[name].shape[axis] // times
        for name, axis, key, times in _SHOWN_IN
        if name in weights and weights[name].ndim > axis
    }


def stored_config(stored: Any, schema: type[Section], path: Path | str) -> Any:
    """The config that a checkpoint of ours holds, parsed; None where there is none, as in published ones, or one that
    this version cannot read, which is said."""
    if not isinstance(stored, dict) or not all(isinstance(stored.get(key), dict) for key in ("data", "model", "spk")):
        return None
    try:
        return schema.model_validate(stored)
    except ValidationError:
        logger.warning("%s: the config stored in it is of another version, so yours was not compared with it", path)
        return None


def changes(before: Any, now: Any, keys: Keys) -> Iterator[str]:
    """What `keys` and the ids of speakers were in one config and are in another, one text for each."""
    for section, names in keys.items():
        for key in names:
            was, is_now = (getattr(getattr(config, section), key) for config in (before, now))
            if was != is_now and str(was).removesuffix(_ONNX) != str(is_now).removesuffix(_ONNX):
                yield f"{section}.{key} was {was!r}, now {is_now!r}"
    for speaker, number in before.spk.items():
        if now.spk.get(speaker, number) != number:
            yield f"spk: the id of {speaker!r} was {number}, now {now.spk[speaker]}"


def require_own_config(model: Path | str, stored: Any, config: Any, keys: Keys, where: Path | str) -> None:
    """Refuses a config, of the file `where`, with which `model` would sound otherwise than by the one it holds.

    Speakers may have other names, which is said, or be left out; published models hold no config, and no names.
    """
    before = stored_config(stored, type(config), model)
    if before is None:
        return
    wrong = list(changes(before, config, keys))
    known = before.spk.values()
    for speaker, number in config.spk.items():
        if known and number not in known and speaker not in before.spk:
            has = listing(f"{number} {name}" for name, number in before.spk.items())
            wrong.append(f"spk: {speaker!r} has the id {number}, of no voice in it ({has})")
    if wrong:
        raise ConfigError(
            f"{where}: is not the config that {model} was trained with: {'; '.join(wrong)}. Give the one that was "
            "saved with that model, or set these values back."
        )
    names, others = {number: name for name, number in before.spk.items()}, config.spk.items() - before.spk.items()
    renamed = [f"{name!r} is {names[number]!r}" for name, number in others if number in names]
    if renamed:
        logger.info("%s calls the voices of %s by other names: %s", where, model, listing(sorted(renamed)))
