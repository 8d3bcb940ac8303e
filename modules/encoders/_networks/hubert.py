"""The HuBERT family (HuBERT, ContentVec, HuBERT-Soft, WavLM, DPHuBERT): torchaudio's network in the sizes of a file.

Source: Hsu and others, "HuBERT: Self-Supervised Speech Representation Learning by Masked Prediction of Hidden Units",
2021, arXiv 2106.07447; Chen and others, "WavLM", 2021, arXiv 2110.13900; Peng and others, "DPHuBERT", 2023,
arXiv 2305.17651.
"""

import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from modules.audio.torchaudio_compat import import_torchaudio
from modules.device import WithoutDrawing
from modules.errors import CheckpointError
from modules.nn.channels_last import channels_last, convolve, lower_linear, quicken
from modules.weights.state_dict import fit

RECEPTIVE_FIELD = 400  # samples at 16 kHz that the first frame sees
HOP = 320
HEAD_WIDTH = 64  # in every published size
_STRIDES = (5, 2, 2, 2, 2, 2, 2)

# (pattern, replacement): the publisher's name -> torchaudio's. The first that matches a whole name applies.
_FAIRSEQ = (
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.(.+)", r"feature_extractor.conv_layers.\1.conv.\2"),
    (r"feature_extractor\.conv_layers\.(\d+)\.2\.(?:1\.)?(.+)", r"feature_extractor.conv_layers.\1.layer_norm.\2"),
    (r"layer_norm\.(.+)", r"encoder.feature_projection.layer_norm.\1"),
    (r"post_extract_proj\.(.+)", r"encoder.feature_projection.projection.\1"),
    (r"encoder\.pos_conv\.0\.(.+)", r"encoder.transformer.pos_conv_embed.conv.\1"),
    (r"encoder\.layer_norm\.(.+)", r"encoder.transformer.layer_norm.\1"),
    (r"encoder\.layers\.(\d+)\.self_attn\.(.+)", r"encoder.transformer.layers.\1.attention.\2"),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.(.+)", r"encoder.transformer.layers.\1.layer_norm.\2"),
    (r"encoder\.layers\.(\d+)\.fc1\.(.+)", r"encoder.transformer.layers.\1.feed_forward.intermediate_dense.\2"),
    (r"encoder\.layers\.(\d+)\.fc2\.(.+)", r"encoder.transformer.layers.\1.feed_forward.output_dense.\2"),
    (r"encoder\.layers\.(\d+)\.final_layer_norm\.(.+)", r"encoder.transformer.layers.\1.final_layer_norm.\2"),
    (r"final_proj\.(.+)", r"final_proj.\1"),
)
_SOFT = (
    (r"feature_extractor\.conv(\d+)\.(.+)", r"feature_extractor.conv_layers.\1.conv.\2"),
    (r"feature_extractor\.norm0\.(.+)", r"feature_extractor.conv_layers.0.layer_norm.\1"),
    (r"feature_projection\.norm\.(.+)", r"encoder.feature_projection.layer_norm.\1"),
    (r"feature_projection\.projection\.(.+)", r"encoder.feature_projection.projection.\1"),
    (r"positional_embedding\.conv\.(.+)", r"encoder.transformer.pos_conv_embed.conv.\1"),
    (r"norm\.(.+)", r"encoder.transformer.layer_norm.\1"),
    (r"encoder\.layers\.(\d+)\.self_attn\.(.+)", r"encoder.transformer.layers.\1.attention.\2"),
    (r"encoder\.layers\.(\d+)\.linear1\.(.+)", r"encoder.transformer.layers.\1.feed_forward.intermediate_dense.\2"),
    (r"encoder\.layers\.(\d+)\.linear2\.(.+)", r"encoder.transformer.layers.\1.feed_forward.output_dense.\2"),
    (r"encoder\.layers\.(\d+)\.norm1\.(.+)", r"encoder.transformer.layers.\1.layer_norm.\2"),
    (r"encoder\.layers\.(\d+)\.norm2\.(.+)", r"encoder.transformer.layers.\1.final_layer_norm.\2"),
    (r"proj\.(.+)", r"final_proj.\1"),
)
_LAYER = "encoder.transformer.layers.{}."
_POSITIONS = "encoder.transformer.pos_conv_embed.conv."


class HubertNetwork(nn.Module):
    """Audio at 16 kHz to the output of a chosen transformer layer; of weights by torchaudio's names.

    Args:
        max_distance: of WavLM's relative positions, in frames.
        pre_norm: whether each layer norms before its attention; by default where every convolution has a norm.
    """

    def __init__(
        self, weights: dict[str, torch.Tensor], path: Path, max_distance: int = 800, pre_norm: bool | None = None
    ) -> None:
        super().__init__()
        try:
            with WithoutDrawing():  # all of it is in the file
                self.network = build(weights, max_distance, pre_norm)
        except (KeyError, IndexError, ValueError):
            raise CheckpointError(f"{path}: holds no network of the HuBERT family. Download it again.") from None
        transformer = self.network.encoder.transformer
        self.n_layers, self.width = len(transformer.layers), transformer.layer_norm.normalized_shape[0]
        self.is_exact_when_padded = _LAYER.format(0) + "attention.rel_attn_embed.weight" not in weights
        self.register_buffer("channel_scale", weights.get("feature_extractor.dummy_weight"))
        # weight_g and weight_v are the names of torch's older weight norm.
        older = {_POSITIONS + f"weight_{part}": index for index, part in enumerate("gv")}
        renamed = {
            f"{_POSITIONS}parametrizations.weight.original{older[name]}" if name in older else name: value.float()
            for name, value in weights.items()
        }
        fitting = fit(renamed, self.network.state_dict(), path, "Download the file again.")
        self.network.load_state_dict(fitting, assign=True)
        # Folded once, instead of before every clip.
        nn.utils.parametrize.remove_parametrizations(transformer.pos_conv_embed.conv, "weight")
        self.final_proj = None
        if {"final_proj.weight", "final_proj.bias"} <= weights.keys():
            self.final_proj = nn.Linear(self.width, len(weights["final_proj.weight"]))
            projection = {name: renamed[f"final_proj.{name}"] for name in ("weight", "bias")}
            self.final_proj.load_state_dict(fit(projection, self.final_proj.state_dict(), path))
        quicken(self.network)
        self.eval().requires_grad_(False)

    def lower(self, dtype: torch.dtype) -> None:
        """Takes `dtype` for linear layers and for the convolutions but the first, whose norm sums over a whole clip."""
        lower_linear(self.network, dtype)
        for block in self.network.feature_extractor.conv_layers[1:]:
            block.conv.to(dtype)

    def forward(self, wavs: torch.Tensor, lengths: list[int], layer: int | None = None) -> list[torch.Tensor]:
        """Frames (D, N') of each clip, N' = (length - 400) // 320 + 1, of a layer counted from 1 or the network's end.

        `wavs` (B, T) at 16 kHz hold zeros after each clip's end; lengths (at least 400) differ only where
        `is_exact_when_padded`.
        """
        features, counts = self.convolve(wavs, lengths)
        ragged = len(set(counts)) > 1
        frames = torch.tensor(counts, device=wavs.device) if ragged else None
        encoder = self.network.encoder
        rows = encoder(features, frames) if layer is None else encoder.extract_features(features, frames, layer)[-1]
        return [rows[index, :count].T for index, count in enumerate(counts)]

    def convolve(self, wavs: torch.Tensor, lengths: list[int]) -> tuple[torch.Tensor, list[int]]:
        """The convolutions at the front: (B, T) to (B, N', C), and the number of real frames of each clip."""
        x, counts = wavs[:, None], list(lengths)
        for block in self.network.feature_extractor.conv_layers:
            kernel, stride = block.conv.kernel_size[0], block.conv.stride[0]
            counts = [(count - kernel) // stride + 1 for count in counts]
            if isinstance(block.layer_norm, nn.GroupNorm):  # after the first; torchaudio's own sees padding too
                x = _convolve_and_norm(block.conv, block.layer_norm, x, counts)
            else:
                x = convolve(block.conv, x.to(block.conv.weight.dtype))
                x = x if block.layer_norm is None else block.layer_norm(x.to(wavs.dtype))
            x = channels_last(F.gelu(x))
        x = x.transpose(1, 2).to(wavs.dtype)
        return (x if self.channel_scale is None else x * self.channel_scale), counts


def rename(weights: dict[str, torch.Tensor], publisher: str) -> dict[str, torch.Tensor]:
    """Weights published by "fairseq" (HuBERT, ContentVec, WavLM) or "soft" (HuBERT-Soft) by torchaudio's names; what
    inference does not use is left out."""
    table = {"fairseq": _FAIRSEQ, "soft": _SOFT}[publisher]
    renamed: dict[str, torch.Tensor] = {}
    for name, value in weights.items():
        for pattern, replacement in table:
            if match := re.fullmatch(pattern, name):
                renamed[match.expand(replacement)] = value
                break
    return _join_wavlm(_split_attention(renamed))


def _split_attention(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """torch's one matrix for query, key and value as three."""
    split: dict[str, torch.Tensor] = {}
    for name, value in weights.items():
        head, _, kind = name.rpartition(".in_proj_")
        if head:
            split |= {f"{head}.{part}_proj.{kind}": rows for part, rows in zip("qkv", value.chunk(3))}
        else:
            split[name] = value
    return split


def _join_wavlm(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """WavLM's attention in torchaudio's form: one matrix for query, key and value, and other names for its gate."""
    layer = 0
    while (prefix := _LAYER.format(layer) + "attention.") + "grep_linear.weight" in weights:
        for kind in ("weight", "bias"):
            parts = [weights.pop(f"{prefix}{part}_proj.{kind}") for part in "qkv"]
            weights[f"{prefix}attention.in_proj_{kind}"] = torch.cat(parts)
            weights[f"{prefix}attention.out_proj.{kind}"] = weights.pop(f"{prefix}out_proj.{kind}")
            weights[f"{prefix}gru_rel_pos_linear.{kind}"] = weights.pop(f"{prefix}grep_linear.{kind}")
        weights[f"{prefix}gru_rel_pos_const"] = weights.pop(f"{prefix}grep_a")
        if layer == 0:
            weights[f"{prefix}rel_attn_embed.weight"] = weights.pop(f"{prefix}relative_attention_bias.weight")
        layer += 1
    return weights


def build(weights: dict[str, torch.Tensor], max_distance: int, pre_norm: bool | None) -> nn.Module:
    """torchaudio's network in the sizes of a file's tensors, with thinned layers where the file has them; a KeyError,
    IndexError or ValueError where it is another kind of network."""
    models = import_torchaudio().models
    convs = []
    while (name := f"feature_extractor.conv_layers.{len(convs)}.conv.weight") in weights:
        convs.append((weights[name].shape[0], weights[name].shape[2], _STRIDES[len(convs)]))
    width, group_width, pos_kernel = weights[_POSITIONS + "weight_v"].shape
    # The large models have a layer norm after every convolution, the others one group norm after the first.
    norm_everywhere = "feature_extractor.conv_layers.1.layer_norm.weight" in weights
    layers = {int(found[1]) for name in weights if (found := re.match(_LAYER.format(r"(\d+)"), name))}
    sizes = [layer_sizes(weights, _LAYER.format(layer)) for layer in range(max(layers) + 1)]
    common = {
        "extractor_mode": "layer_norm" if norm_everywhere else "group_norm",
        "extractor_conv_layer_config": convs,
        "extractor_conv_bias": "feature_extractor.conv_layers.0.conv.bias" in weights,
        "encoder_embed_dim": width,
        "encoder_projection_dropout": 0.0,
        "encoder_pos_conv_kernel": pos_kernel,
        "encoder_pos_conv_groups": width // group_width,
        "encoder_num_layers": len(sizes),
        "encoder_num_heads": width // HEAD_WIDTH,
        "encoder_attention_dropout": 0.0,
        "encoder_ff_interm_features": max(1, *(inner for _, inner in sizes)),
        "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.0,
        "encoder_layer_norm_first": norm_everywhere if pre_norm is None else pre_norm,
        "encoder_layer_drop": 0.0,
        "aux_num_out": None,
    }
    positions = weights.get(_LAYER.format(0) + "attention.rel_attn_embed.weight")
    if positions is not None:
        return models.wavlm_model(**common, encoder_num_buckets=len(positions), encoder_max_distance=max_distance)
    network = models.wav2vec2_model(**common)
    for layer, (heads, inner) in zip(network.encoder.transformer.layers, sizes, strict=True):
        thin(layer, width, heads, inner)
    return network


def layer_sizes(weights: dict[str, torch.Tensor], prefix: str) -> tuple[int, int]:
    """Attention heads and feed-forward width of a transformer layer, 0 where pruning has removed the part."""
    joined = weights.get(prefix + "attention.attention.in_proj_weight")
    query = weights.get(prefix + "attention.q_proj.weight")
    rows = len(joined) // 3 if joined is not None else 0 if query is None else len(query)
    return rows // HEAD_WIDTH, len(weights.get(prefix + "feed_forward.intermediate_dense.weight", ()))


def thin(layer: nn.Module, width: int, heads: int, inner: int) -> None:
    """Gives a transformer layer of torchaudio's the sizes that pruning has left."""
    attention, dense = layer.attention, layer.feed_forward
    if not heads:
        layer.attention = _Nothing()
    elif heads != attention.num_heads:
        attention.num_heads = heads
        attention.q_proj, attention.k_proj, attention.v_proj = (nn.Linear(width, heads * HEAD_WIDTH) for _ in range(3))
        attention.out_proj = nn.Linear(heads * HEAD_WIDTH, width)
    if not inner:
        layer.feed_forward = _Nothing()
    elif inner != dense.intermediate_dense.out_features:
        dense.intermediate_dense, dense.output_dense = nn.Linear(width, inner), nn.Linear(inner, width)


class _Nothing(nn.Module):
    """A part that pruning has removed: adds zero to the path round it."""

    def forward(self, x: torch.Tensor, *args, **kwargs):
        """Zero; with the position bias where it stands for an attention."""
        return (torch.zeros_like(x), kwargs.get("position_bias")) if kwargs else torch.zeros_like(x)


def _convolve_and_norm(conv: nn.Conv1d, norm: nn.GroupNorm, x: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """`norm(conv(x))` of clips (B, 1, T), for a norm of each channel over the real frames: (B, C, N'), garbage in the
    padding.

    The convolution w is linear, so the mean and the variance of its output are w m and w S w', where m and S are the
    mean and the covariance of the K samples that it sees at once. The norm becomes part of w, and the output, which is
    wide, is written once.
    """
    rows = x[:, 0].unfold(1, conv.kernel_size[0], conv.stride[0])  # (B, N', K)
    # In fp64: of what is smooth, a filter for high tones leaves a millionth. MPS has none.
    device = torch.device("cpu") if x.device.type == "mps" else x.device
    weight, gain, shift = (value.to(device).double() for value in (conv.weight[:, 0], norm.weight, norm.bias))
    matrices, shifts = [], []
    for clip, count in zip(rows, counts):
        seen = clip[:count].to(device).double()
        mean = seen.mean(0)
        covariance = (seen - mean).T @ (seen - mean) / count
        scale = gain * torch.rsqrt(((weight @ covariance) * weight).sum(1) + norm.eps)
        matrices.append((weight * scale[:, None]).T)
        shifts.append(shift - (weight @ mean) * scale)
    matrices, shifts = (torch.stack(values).to(x.dtype).to(x.device) for values in (matrices, shifts))
    return torch.baddbmm(shifts[:, None], rows, matrices).transpose(1, 2)
