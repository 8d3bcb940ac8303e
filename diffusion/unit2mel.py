"""Unit2Mel: content units, pitch, loudness and speaker to a mel spectrum, by diffusion.

Names of tensors are those of published 4.1 checkpoints `model_N.pt`.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from diffusion.gaussian import GaussianDiffusion
from diffusion.wavenet import WaveNet
from modules.config.diffusion import DiffusionConfig
from modules.errors import CheckpointError
from modules.weights.checkpoint import load_weights
from modules.weights.families import UNKNOWN, recognise

# Augmented training items were shifted by up to this many semitones.
LARGEST_SHIFT = 5


class Unit2Mel(nn.Module):
    """The conditioned diffusion model.

    Args:
        unit_channels: D, width of the units.
        n_speakers: S; a speaker vector is only there for more than one.
        use_pitch_aug: whether it knows how far an item's formants were shifted.
        n_mels: M.
        n_layers: layers of the denoiser.
        n_chans: width of the denoiser.
        n_hidden: H, width of the condition.
        timesteps: length of the chain.
        k_step_max: noise levels that are trained; 0, None or more than there are mean all.
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
        """What the denoiser is told, (B, H, N).

        Args:
            units: (B, D, N).
            f0: (B, N) Hz.
            volume: (B, N) linear.
            speaker: (B,) ids, or (B, S) or (B, S, N) weights of a mix.
            aug_shift: (B,) semitones by which the formants were shifted, or None.
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
    """A trained network, ready to sample.

    Args:
        path: `model_N.pt`.
        config: that was saved with it.
        n_mels: bands of the vocoder.
        device: where it is to run.
        dtype: of the denoiser; the chain itself is fp32 in any case.
        where: names the config in messages.

    Raises:
        CheckpointError: not there, damaged, not a diffusion model, or it does not fit the config or the vocoder.
    """
    found = weights_of(load_weights(path), path)
    with torch.device("meta"):
        network = build_unit2mel(config, n_mels)
    problem = explain_mismatch(found, network.state_dict(), where)
    if problem:
        raise CheckpointError(f"{path}: {problem}")
    network = build_unit2mel(config, n_mels)
    _check_chain(found, network, path)
    network.load_state_dict({name: found[name].float() for name in network.state_dict()})
    network.eval().requires_grad_(False).decoder.denoise_fn.to(dtype)
    return network.to(device)


def weights_of(content: dict, path: Path | str) -> dict[str, torch.Tensor]:
    """The tensors of a diffusion checkpoint.

    Raises:
        CheckpointError: it is something else; the text says what it looks like.
    """
    found = content.get("model", content)
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in found.items()
    ):
        raise CheckpointError(f"{path}: not a diffusion model: it holds no weights under 'model'")
    if "decoder.denoise_fn.input_projection.weight" in found:
        return found
    other = recognise(content)
    raise CheckpointError(
        f"{path}: not a diffusion model of so-vits-svc 4.1: it holds no decoder.denoise_fn.input_projection.weight. "
        + ("Give a file like model_20000.pt." if other.family is UNKNOWN else f"It is {other.title}. {other.remedy}")
    )


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


def explain_mismatch(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], where: str) -> str | None:
    """Says what keeps the tensors of a checkpoint from fitting a network, or None if they fit.

    Args:
        found: name -> tensor of the checkpoint.
        wanted: name -> tensor of the network.
        where: names the config that the network was built from.
    """
    way_out = f"Use the config.yaml that was saved with this model instead of {where}."
    for name, tensor in wanted.items():
        if name not in found:
            key = next((key for pattern, key in _PRESENT_BY if re.match(pattern, name)), "another model section")
            return f"tensor {name} is missing, which {where} asks for. Likely cause: {key}. {way_out}"
        shape, expected = list(found[name].shape), list(tensor.shape)
        if shape != expected:
            axes = [axis for axis, (a, b) in enumerate(zip(shape, expected)) if a != b] or [0]
            keys = [key for pattern, axis, key in _SIZED_BY if axis in axes and re.match(pattern, name)]
            key = keys[0] if keys else "another model section"
            return f"tensor {name} is {shape} but {where} makes it {expected}. Likely cause: {key}. {way_out}"
    for name in found:
        if name not in wanted:
            key = next((key for pattern, key in _PRESENT_BY if re.match(pattern, name)), "another model section")
            return f"it has a tensor {name}, which {where} does not use. Likely cause: {key}. {way_out}"
    return None


def _check_chain(found: Mapping[str, torch.Tensor], network: Unit2Mel, path: Path | str) -> None:
    """Refuses another noise schedule: the samplers would walk the wrong chain.

    Raises:
        CheckpointError: the noise levels differ.
    """
    name = "decoder.betas"
    if not torch.allclose(found[name].float(), network.state_dict()[name], atol=1e-6):
        ends = [f"{float(found[name][0]):.4g} to {float(found[name][-1]):.4g}", "0.0001 to 0.02"]
        raise CheckpointError(f"{path}: its noise levels run from {ends[0]}, only {ends[1]} are known here")
