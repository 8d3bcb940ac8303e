"""Why a voice does not fit a config: from names and axes of its tensors to the key that most likely explains them."""

import re

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
# Left out: the posterior encoder, the pitch decoder as a whole, and the second names of shared flow weights.
NOT_TO_IGNORE = ("emb_vol.", "pre.", "enc_p.", "dec.", "flow.flows.")


def likely_key(name: str, axes: tuple[int, ...]) -> str:
    """The `hint` for `modules.weights.state_dict.fit` of a voice: the config key that most likely explains a mismatch.

    `axes` are those along which the tensor `name` has another size; none where it is missing or has no place.
    """
    table = [(pattern, key) for pattern, axis, key in _SIZED_BY if axis in axes] if axes else _ABSENT_BECAUSE
    key = next((f"model.{key}" for pattern, key in table if re.match(pattern, name)), "another model section")
    return f"Likely cause: {key}. Correct it, or use the config.json that was saved with this model."
