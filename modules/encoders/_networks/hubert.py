"""The HuBERT family (HuBERT, ContentVec, HuBERT-Soft, WavLM, DPHuBERT): torchaudio's network in the sizes of a file.

Ours is what lies around it: names of four publishers brought to torchaudio's, batches of clips of different length, and
layers that pruning has thinned.

Source: Hsu and others, "HuBERT: Self-Supervised Speech Representation Learning by Masked Prediction of Hidden Units",
2021, arXiv 2106.07447; Chen and others, "WavLM", 2021, arXiv 2110.13900; Peng and others, "DPHuBERT", 2023,
arXiv 2305.17651.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from modules.audio.torchaudio_compat import import_torchaudio
from modules.device import WithoutDrawing
from modules.errors import CheckpointError

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
_ATTENTION = "encoder.transformer.layers.{}.attention."


@dataclass(frozen=True)
class Extent:
    """What a file's tensors say about its network.

    Args:
        convs: (channels, kernel, stride) of each convolution at the front.
        conv_bias: whether those have one.
        norm_everywhere: a layer norm after every convolution, as in the large models, which also norm before each
            attention; otherwise one group norm after the first.
        width: of the transformer.
        pos_kernel, pos_groups: of the positional convolution.
        heads: attention heads of each transformer layer, 0 where it has no attention.
        inner: width of each feed-forward layer, 0 where it has none.
    """

    convs: tuple[tuple[int, int, int], ...]
    conv_bias: bool
    norm_everywhere: bool
    width: int
    pos_kernel: int
    pos_groups: int
    heads: tuple[int, ...]
    inner: tuple[int, ...]


class HubertNetwork(nn.Module):
    """Audio at 16 kHz to the output of a chosen transformer layer.

    Args:
        weights: by torchaudio's names.
        path: for messages.
        max_distance: of WavLM's relative positions, in frames.
        pre_norm: whether each layer norms before its attention; None decides by the convolutions' norms.

    Raises:
        CheckpointError: a tensor is missing or has a shape that does not fit.
    """

    def __init__(
        self, weights: dict[str, torch.Tensor], path: Path, max_distance: int = 800, pre_norm: bool | None = None
    ) -> None:
        super().__init__()
        try:
            extent = measure(weights)
        except (KeyError, IndexError, ValueError):
            raise CheckpointError(f"{path}: holds no network of the HuBERT family. Download it again.") from None
        positions = weights.get(_ATTENTION.format(0) + "rel_attn_embed.weight")
        self.n_layers = len(extent.heads)
        self.is_exact_when_padded = positions is None
        pre_norm = extent.norm_everywhere if pre_norm is None else pre_norm
        with WithoutDrawing():  # all of it is in the file
            self.network = _build(extent, pre_norm, None if positions is None else len(positions), max_distance)
        self.final_proj = None
        if {"final_proj.weight", "final_proj.bias"} <= weights.keys():
            self.final_proj = nn.Linear(extent.width, weights["final_proj.weight"].shape[0])
        self.register_buffer("channel_scale", weights.get("feature_extractor.dummy_weight"))
        self._load({name: value.float() for name, value in weights.items() if "dummy_weight" not in name}, path)
        # Folded once, instead of before every clip.
        nn.utils.parametrize.remove_parametrizations(self.network.encoder.transformer.pos_conv_embed.conv, "weight")
        self.eval().requires_grad_(False)

    def forward(self, wavs: torch.Tensor, lengths: list[int], layer: int | None = None) -> list[torch.Tensor]:
        """Frames of each clip.

        Args:
            wavs: (B, T) at 16 kHz, zeros after each clip's end. Clips of different length only where
                `is_exact_when_padded`.
            lengths: samples of each, at least 400.
            layer: output of this layer, counted from 1; the last one, normed as the network ends, by default.

        Returns:
            (D, N') for each, N' = (length - 400) // 320 + 1.
        """
        features, counts = self.convolve(wavs, lengths)
        ragged = len(set(counts)) > 1
        frames = torch.tensor(counts, device=wavs.device) if ragged else None
        encoder = self.network.encoder
        if layer is None:
            rows = encoder(features, frames)
        else:
            rows = encoder.extract_features(features, frames, layer)[-1]
        return [rows[index, :count].T for index, count in enumerate(counts)]

    def convolve(self, wavs: torch.Tensor, lengths: list[int]) -> tuple[torch.Tensor, list[int]]:
        """The convolutions at the front: (B, T) to (B, N', C), and the number of real frames of each clip.

        The group norm takes its statistics over real frames alone, so that a clip's neighbours in the batch do not
        matter. (torchaudio's own takes them over the padding too.)
        """
        x, counts = wavs[:, None], list(lengths)
        for block in self.network.feature_extractor.conv_layers:
            kernel, stride = block.conv.kernel_size[0], block.conv.stride[0]
            counts = [(count - kernel) // stride + 1 for count in counts]
            x = block.conv(x)
            if isinstance(block.layer_norm, nn.GroupNorm):
                x = _norm_real_frames(x, counts, block.layer_norm)
            elif block.layer_norm is not None:
                x = block.layer_norm(x)
            x = F.gelu(x)
        x = x.transpose(1, 2)
        return (x if self.channel_scale is None else x * self.channel_scale), counts

    def _load(self, weights: dict[str, torch.Tensor], path: Path) -> None:
        own = self.network.state_dict()
        renamed = {}
        for name, value in weights.items():
            if name.startswith("final_proj."):
                continue
            for old, new in ((".conv.weight_g", "original0"), (".conv.weight_v", "original1")):
                if name.endswith(old):
                    name = name.removesuffix(old) + ".conv.parametrizations.weight." + new
            renamed[name] = value
        for name, wanted in own.items():
            if name not in renamed:
                raise CheckpointError(f"{path}: tensor {name} is missing. The file is incomplete; download it again.")
            if renamed[name].shape != wanted.shape:
                raise CheckpointError(
                    f"{path}: tensor {name} is {list(renamed[name].shape)}, {list(wanted.shape)} is expected"
                )
        self.network.load_state_dict({name: renamed[name] for name in own})
        if self.final_proj is not None:
            self.final_proj.load_state_dict({name: weights[f"final_proj.{name}"] for name in ("weight", "bias")})


def rename(weights: dict[str, torch.Tensor], publisher: str) -> dict[str, torch.Tensor]:
    """Weights by torchaudio's names; what inference does not use is left out.

    Args:
        weights: as published.
        publisher: "fairseq" (HuBERT, ContentVec, WavLM) or "soft" (HuBERT-Soft).
    """
    table = {"fairseq": _FAIRSEQ, "soft": _SOFT}[publisher]
    renamed: dict[str, torch.Tensor] = {}
    for name, value in weights.items():
        for pattern, replacement in table:
            match = re.fullmatch(pattern, name)
            if match:
                renamed[match.expand(replacement)] = value
                break
    return _join_wavlm(_split_attention(renamed))


def _split_attention(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """torch's one matrix for query, key and value as three."""
    split: dict[str, torch.Tensor] = {}
    for name, value in weights.items():
        head, _, kind = name.rpartition(".in_proj_")
        if head:
            for part, piece in zip("qkv", value.chunk(3)):
                split[f"{head}.{part}_proj.{kind}"] = piece
        else:
            split[name] = value
    return split


def _join_wavlm(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """WavLM's attention in torchaudio's form: one matrix for query, key and value, and other names for its gate."""
    layer = 0
    while (prefix := _ATTENTION.format(layer)) + "grep_linear.weight" in weights:
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


def measure(weights: dict[str, torch.Tensor]) -> Extent:
    """The sizes of a network from its tensors by torchaudio's names.

    Raises:
        KeyError, ValueError: it is another kind of network.
    """
    convs = []
    while (name := f"feature_extractor.conv_layers.{len(convs)}.conv.weight") in weights:
        channels, _, kernel = weights[name].shape
        convs.append((channels, kernel, _STRIDES[len(convs)]))
    width, group_width, pos_kernel = weights["encoder.transformer.pos_conv_embed.conv.weight_v"].shape
    layers = {int(found[1]) for name in weights if (found := re.match(r"encoder\.transformer\.layers\.(\d+)\.", name))}
    heads, inner = [], []
    for layer in range(max(layers) + 1):
        prefix = f"encoder.transformer.layers.{layer}."
        joined = weights.get(prefix + "attention.attention.in_proj_weight")
        query = weights.get(prefix + "attention.q_proj.weight")
        rows = joined.shape[0] // 3 if joined is not None else 0 if query is None else query.shape[0]
        heads.append(rows // HEAD_WIDTH)
        dense = weights.get(prefix + "feed_forward.intermediate_dense.weight")
        inner.append(0 if dense is None else dense.shape[0])
    return Extent(
        convs=tuple(convs),
        conv_bias="feature_extractor.conv_layers.0.conv.bias" in weights,
        norm_everywhere="feature_extractor.conv_layers.1.layer_norm.weight" in weights,
        width=width,
        pos_kernel=pos_kernel,
        pos_groups=width // group_width,
        heads=tuple(heads),
        inner=tuple(inner),
    )


def _build(extent: Extent, pre_norm: bool, n_buckets: int | None, max_distance: int) -> nn.Module:
    """torchaudio's network, with thinned layers put in where the file has them."""
    models = import_torchaudio().models
    full = extent.width // HEAD_WIDTH
    common = {
        "extractor_mode": "layer_norm" if extent.norm_everywhere else "group_norm",
        "extractor_conv_layer_config": list(extent.convs),
        "extractor_conv_bias": extent.conv_bias,
        "encoder_embed_dim": extent.width,
        "encoder_projection_dropout": 0.0,
        "encoder_pos_conv_kernel": extent.pos_kernel,
        "encoder_pos_conv_groups": extent.pos_groups,
        "encoder_num_layers": len(extent.heads),
        "encoder_num_heads": full,
        "encoder_attention_dropout": 0.0,
        "encoder_ff_interm_features": max(1, *extent.inner),
        "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.0,
        "encoder_layer_norm_first": pre_norm,
        "encoder_layer_drop": 0.0,
        "aux_num_out": None,
    }
    if n_buckets is not None:
        return models.wavlm_model(**common, encoder_num_buckets=n_buckets, encoder_max_distance=max_distance)
    network = models.wav2vec2_model(**common)
    for layer, heads, inner in zip(network.encoder.transformer.layers, extent.heads, extent.inner, strict=True):
        if heads != full:
            layer.attention = _ThinAttention(extent.width, heads) if heads else _Nothing()
        if inner != common["encoder_ff_interm_features"]:
            layer.feed_forward = _ThinFeedForward(extent.width, inner) if inner else _Nothing()
    return network


class _ThinAttention(nn.Module):
    """Self-attention with fewer heads than the width would hold; called as torchaudio's."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj, self.v_proj, self.q_proj = (nn.Linear(width, heads * HEAD_WIDTH) for _ in range(3))
        self.out_proj = nn.Linear(heads * HEAD_WIDTH, width)

    def forward(
        self,
        x: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        key_padding_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, N, D) to the same, and the position bias passed through."""
        batch, n_frames, _ = x.shape
        q, k, v = (
            layer(x).view(batch, n_frames, self.heads, HEAD_WIDTH).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), position_bias


class _ThinFeedForward(nn.Module):
    """Two dense layers round a GELU."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(width, inner)
        self.output_dense = nn.Linear(inner, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, D) to the same."""
        return self.output_dense(F.gelu(self.intermediate_dense(x)))


class _Nothing(nn.Module):
    """A part that pruning has removed: adds zero to the path round it."""

    def forward(self, x: torch.Tensor, *args, **kwargs):
        """Zero; with the position bias where it stands for an attention."""
        return (torch.zeros_like(x), kwargs.get("position_bias")) if kwargs else torch.zeros_like(x)


def _norm_real_frames(x: torch.Tensor, counts: list[int], norm: nn.GroupNorm) -> torch.Tensor:
    """Norm of each channel over the real frames of each clip: (B, C, N) to the same, garbage in the padding."""
    if len(set(counts)) == 1 and counts[0] == x.shape[2]:
        return norm(x)
    real = torch.arange(x.shape[2], device=x.device) < torch.tensor(counts, device=x.device)[:, None, None]
    count = real.sum(dim=2, keepdim=True)
    mean = (x * real).sum(dim=2, keepdim=True) / count
    variance = ((x - mean).square() * real).sum(dim=2, keepdim=True) / count
    scaled = (x - mean) * torch.rsqrt(variance + norm.eps)
    return scaled * norm.weight[:, None] + norm.bias[:, None]
