"""Unit2Mel: content units, F0, loudness and speaker to a mel spectrum, by diffusion.

Names of tensors are those of published 4.1 checkpoints `model_N.pt`.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffusion.gaussian import GaussianDiffusion
from diffusion.wavenet import WaveNet
from modules.config.diffusion import DiffusionConfig
from modules.config.fit import DIFFUSION_CONVERTS_WITH, require_own_config
from modules.device import WithoutDrawing
from modules.errors import CheckpointError
from modules.weights.checkpoint import load_weights
from modules.weights.families import UNKNOWN, recognise
from modules.weights.state_dict import fit

# Augmented training items were shifted by up to this many semitones.
LARGEST_SHIFT = 5
_NEEDED = "decoder.denoise_fn.input_projection.weight"


class Unit2Mel(nn.Module):
    """The conditioned diffusion model: D `unit_channels`, M `n_mels`, H `n_hidden` (the condition's width).

    A speaker vector is only there for more than one speaker; with `use_pitch_aug` it knows how far an item's formants
    were shifted. `k_step_max` noise levels are trained; 0, None or more than there are mean all.
    """

    def __init__(
        self,
        unit_channels: int,
        n_speakers: int,
        use_pitch_aug: bool = True,
        n_mels: int = 128,
        n_layers: int = 20,
        n_chans: int = 512,
        n_hidden: int = 256,
        timesteps: int = 1000,
        k_step_max: int | None = 0,
    ) -> None:
        super().__init__()
        self.unit_embed = nn.Linear(unit_channels, n_hidden)
        self.f0_embed = nn.Linear(1, n_hidden)
        self.volume_embed = nn.Linear(1, n_hidden)
        self.aug_shift_embed = nn.Linear(1, n_hidden, bias=False) if use_pitch_aug else None
        self.spk_embed = nn.Embedding(n_speakers, n_hidden) if n_speakers > 1 else None
        trained = k_step_max if k_step_max and k_step_max < timesteps else timesteps
        self.decoder = GaussianDiffusion(WaveNet(n_mels, n_chans, n_hidden, n_layers), timesteps, trained)

    def condition(
        self,
        units: torch.Tensor,
        f0: torch.Tensor,
        volume: torch.Tensor,
        speaker: torch.Tensor,
        aug_shift: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What the denoiser is conditioned on, (B, H, N).

        Of units (B, D, N), F0 (B, N) Hz, linear volume (B, N), speaker (B,) ids or weights of a mix (B, S) or
        (B, S, N), and the semitones (B,) by which the formants were shifted.
        """
        melody = self.f0_embed(torch.log1p(f0 / 700)[..., None])
        hidden = self.unit_embed(units.transpose(1, 2)) + melody + self.volume_embed(volume[..., None])
        if self.spk_embed is not None:
            hidden = hidden + self._speaker(speaker)
        if self.aug_shift_embed is not None and aug_shift is not None:
            hidden = hidden + self.aug_shift_embed(aug_shift[:, None, None] / LARGEST_SHIFT)
        return hidden.transpose(1, 2)

    def forward(
        self,
        units: torch.Tensor,
        f0: torch.Tensor,
        volume: torch.Tensor,
        speaker: torch.Tensor,
        aug_shift: torch.Tensor | None,
        mel: torch.Tensor,
    ) -> torch.Tensor:
        """The training loss of a mel (B, M, N) under its condition."""
        return self.decoder.loss(self.condition(units, f0, volume, speaker, aug_shift), mel)

    def _speaker(self, speaker: torch.Tensor) -> torch.Tensor:
        """(B, 1 or N, H) of ids (B,) or weights (B, S) or (B, S, N)."""
        if not speaker.is_floating_point():
            return self.spk_embed(speaker)[:, None]
        if speaker.dim() == 2:
            speaker = speaker[..., None]
        return speaker.transpose(1, 2) @ self.spk_embed.weight


def build_unit2mel(config: DiffusionConfig, n_mels: int) -> Unit2Mel:
    """The untrained network of a diffusion.yaml, for a vocoder with `n_mels` bands."""
    model = config.model
    return Unit2Mel(
        config.data.encoder_out_channels,
        model.n_spk,
        model.use_pitch_aug,
        n_mels,
        model.n_layers,
        model.n_chans,
        model.n_hidden,
        model.timesteps,
        model.k_step_max,
    )


def load_unit2mel(
    path: Path | str,
    config: DiffusionConfig,
    n_mels: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    where: str = "its config.yaml",
) -> Unit2Mel:
    """The trained network of a `model_N.pt`, ready to sample, for a vocoder with `n_mels` bands.

    `dtype` is that of the denoiser, the chain itself is fp32 in any case; `where` names the config in messages.
    """
    content = load_weights(path)
    found = weights_of(content, path)
    require_own_config(path, content.get("config"), config, DIFFUSION_CONVERTS_WITH, where)
    with WithoutDrawing():
        network = build_unit2mel(config, n_mels)
    found = fit_unit2mel(found, network.state_dict(), path, where)
    # Another noise schedule would send the samplers down the wrong chain.
    betas = found["decoder.betas"].float()
    if not torch.allclose(betas, network.decoder.betas, atol=1e-6):
        ends = f"{float(betas[0]):.4g} to {float(betas[-1]):.4g}, only 0.0001 to 0.02 are known here"
        raise CheckpointError(f"{path}: its noise levels run from {ends}")
    network.load_state_dict({name: tensor.float() for name, tensor in found.items()}, assign=True)
    network.eval().requires_grad_(False).decoder.denoise_fn.to(dtype)
    return network.to(device)


def weights_of(content: dict[Any, Any], path: Path | str) -> dict[str, torch.Tensor]:
    """The tensors of a diffusion checkpoint; a CheckpointError says what it looks like if it is something else."""
    found = recognise(content)
    if _NEEDED in found.weights:
        return dict(found.weights)
    remedy = "Give a file like model_20000.pt." if found.family is UNKNOWN else f"It is {found.title}. {found.remedy}"
    raise CheckpointError(f"{path}: not a diffusion model of so-vits-svc 4.1: it holds no {_NEEDED}. {remedy}")


def fit_unit2mel(
    found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], path: Path | str, where: str
) -> dict[str, torch.Tensor]:
    """`modules.weights.state_dict.fit` that names the key of the config `where` that best explains a mismatch."""

    def hint(name: str, axes: tuple[int, ...]) -> str:
        key = key_of(name, axes) or "another model section"
        return f"Likely cause: {key}. Use the config.yaml that was saved with this model."

    return fit(found, wanted, path, hint, where, no_extra=("",))


def key_of(name: str, axes: tuple[int, ...]) -> str | None:
    """The config key that most likely explains a tensor of another size along `axes`, or, without any, one that is
    missing or has no place."""
    table = [(pattern, key) for pattern, axis, key in _SIZED_BY if axis in axes] if axes else _PRESENT_BY
    return next((key for pattern, key in table if re.match(pattern, name)), None)


def sizes_of(weights: dict[str, torch.Tensor]) -> dict[str, int]:
    """The sizes of a network by their config keys."""
    width, n_units = weights["unit_embed.weight"].shape if "unit_embed.weight" in weights else (0, 0)
    layers = {match[1] for match in map(re.compile(r".*residual_layers\.(\d+)\.").match, weights) if match}
    sizes = {"data.encoder_out_channels": n_units, "model.n_hidden": width, "model.n_layers": len(layers)}
    return sizes | {"model.n_chans": len(weights[_NEEDED])}


# Where a tensor's name matches, the key that most likely explains its size along an axis.
_SIZED_BY = (
    (r"unit_embed\.weight", 1, "data.encoder_out_channels, the width of the units of data.encoder"),
    (r"spk_embed\.weight", 0, "model.n_spk, the number of speakers"),
    (r"decoder\.denoise_fn\.(input_projection\.weight)", 1, "the mel bands of the vocoder (vocoder.ckpt)"),
    (r"decoder\.denoise_fn\.output_projection\.\w+", 0, "the mel bands of the vocoder (vocoder.ckpt)"),
    (r"(unit_embed|f0_embed|volume_embed)\.", 0, "model.n_hidden"),
    (r"(spk_embed|decoder\.denoise_fn.*conditioner_projection)\.weight", 1, "model.n_hidden"),
    (r"decoder\.denoise_fn\.", 0, "model.n_chans"),
    (r"decoder\.denoise_fn\.", 1, "model.n_chans"),
    (r"decoder\.\w+$", 0, "model.timesteps"),
)
_PRESENT_BY = (
    (r"spk_embed\.", "model.n_spk (1 has no speaker vector)"),
    (r"aug_shift_embed\.", "model.use_pitch_aug"),
    (r"decoder\.denoise_fn\.residual_layers\.", "model.n_layers"),
)
