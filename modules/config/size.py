"""How many numbers the networks of a config hold, from its values alone, so that nothing absurd is ever allocated."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from modules.errors import ConfigError

if TYPE_CHECKING:
    from modules.config.schema import Config, ModelConfig

# Published voices hold 40 to 80 million.
MOST_PARAMETERS = 1_000_000_000


def refuse_absurd(parts: dict[str, int], section: str) -> None:
    """Refuses a network that no machine of a user could hold.

    Args:
        parts: name of a part, with the keys that size it -> parameters in it.
        section: of the config.

    Raises:
        ConfigError: all together are more than `MOST_PARAMETERS`; names the largest part.
    """
    total = sum(parts.values())
    if total > MOST_PARAMETERS:
        largest = max(parts, key=parts.__getitem__)
        raise ConfigError(
            f"{section} describes a network of {total:.2g} parameters, at most {MOST_PARAMETERS:.0e} are allowed. Most "
            f"are in {largest}: correct these values."
        )


def voice_parts(config: "Config") -> dict[str, int]:
    """Parameters of each part of a voice in training, for `refuse_absurd`; biases and norms are left out."""
    model = config.model
    hidden, gin, latent, ffn = model.hidden_channels, model.gin_channels, model.inter_channels, model.filter_channels
    transformer = model.n_layers * hidden * (4 * hidden + 2 * ffn * model.kernel_size)
    flows = 1 if model.flow_share_parameter else model.n_flow_layer
    if model.use_transformer_flow:
        coupling = model.n_layers_trans_flow * hidden * (4 * hidden + 2 * ffn * 5 + 2 * gin) + 2 * hidden**2
    else:
        coupling = _wavenet(model, 4)
    posterior = (config.data.filter_length // 2 + 1) * hidden + _wavenet(model, 16)
    decoder = decoder_parameters(
        latent,
        model.upsample_initial_channel,
        model.upsample_rates,
        model.upsample_kernel_sizes,
        model.resblock_kernel_sizes,
        model.resblock_dilation_sizes,
    )
    return {
        "model.n_speakers, gin_channels": model.n_speakers * gin,
        "model.ssl_dim, hidden_channels": model.ssl_dim * hidden * 5,
        "model.n_layers, hidden_channels, filter_channels, kernel_size": transformer * 2 + hidden * (gin + 2 * latent),
        "model.n_flow_layer, hidden_channels, gin_channels": flows * coupling + model.n_flow_layer * latent * hidden,
        "data.filter_length, model.hidden_channels, gin_channels": posterior + 2 * latent * hidden,
        "model.upsample_initial_channel, upsample_kernel_sizes, resblock_kernel_sizes": decoder
        + gin * model.upsample_initial_channel,
    }


def decoder_parameters(
    in_channels: int,
    channels: int,
    rates: Sequence[int],
    kernels: Sequence[int],
    block_kernels: Sequence[int],
    block_dilations: Sequence[Sequence[int]],
) -> int:
    """Parameters of a waveform decoder with residual blocks of the first kind."""
    total = in_channels * channels * 7
    blocks = sum(2 * kernel * len(dilations) for kernel, dilations in zip(block_kernels, block_dilations))
    for stage in range(min(len(rates), len(kernels))):
        before, after = channels >> stage, channels >> (stage + 1)
        total += before * after * kernels[stage] + after * after * blocks
    return total


def denoiser_parameters(n_layers: int, channels: int, hidden: int, units: int, speakers: int) -> int:
    """Parameters of a diffusion model."""
    return n_layers * channels * (9 * channels + 2 * hidden) + 8 * channels**2 + hidden * (units + speakers)


def _wavenet(model: "ModelConfig", n_layers: int) -> int:
    hidden = model.hidden_channels
    taps = 5 * hidden if not model.use_depthwise_conv else hidden
    return n_layers * 2 * hidden * (taps + hidden + model.gin_channels)
