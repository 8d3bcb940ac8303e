"""Why a checkpoint does not fit a config: from the first mismatch to the config key that most likely explains it."""

import re
from collections.abc import Mapping
from typing import Any

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
)
# Parts of which every tensor changes the sound: one that the network has no place for must not be dropped silently.
# Not in it: the posterior encoder, the F0 decoder as a whole, and the second names of shared flow weights.
_NOT_TO_IGNORE = ("emb_vol.", "pre.", "enc_p.", "dec.", "flow.flows.")


def explain_mismatch(found: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> str | None:
    """The first mismatch between a checkpoint and a network as one line with the likely config key; None if they fit.

    Args:
        found: name -> tensor of the checkpoint; more than `wanted` is allowed, except what changes the sound.
        wanted: name -> tensor of the network.
        where: names the config that the network was built from.
    """
    way_out = f"or use the config.json that was saved with this model instead of {where}."
    # The layer of the units first: with another encoder much else differs as well.
    for name, tensor in sorted(wanted.items(), key=lambda item: item[0] != "pre.weight"):
        if name not in found:
            key = _first_match(_ABSENT_BECAUSE, name)
            return f"tensor {name} is missing, which {where} asks for. Likely cause: {key}. Correct it, {way_out}"
        shape, expected = list(found[name].shape), list(tensor.shape)
        if shape != expected:
            axes = [axis for axis, (a, b) in enumerate(zip(shape, expected)) if a != b] or [0]
            key = _first_match([(pattern, key) for pattern, axis, key in _SIZED_BY if axis in axes], name)
            return (
                f"tensor {name} has the shape {shape} but {where} makes it {expected}. "
                f"Likely cause: {key}. Correct it, {way_out}"
            )
    for name in found:
        if name not in wanted and name.startswith(_NOT_TO_IGNORE):
            key = _first_match(_ABSENT_BECAUSE, name)
            return f"it has a tensor {name}, but {where} does not use it. Likely cause: {key}. Correct it, {way_out}"
    return None


def _first_match(table: list | tuple, name: str) -> str:
    return next((f"model.{key}" for pattern, key in table if re.match(pattern, name)), "another model section")
