"""The pretrained mel vocoder: a log mel and a pitch to a waveform, and the mel of a waveform as it was trained on."""

import math
from pathlib import Path

import torch
from torch import nn

from modules.audio.mel import vocoder_mel
from modules.config.audio import AudioSpec
from modules.config.vocoder import VocoderConfig, load_vocoder_config, vocoder_config_path
from modules.errors import CheckpointError, ConfigError, MissingWeights
from modules.nn.weight_norm import fold_weight_norm
from modules.pretrained.find import find
from modules.weights.checkpoint import load_weights
from vdecoder.nsf_hifigan import GeneratorSpec, NSFGenerator

# Name in diffusion.yaml -> factor from the natural-log mel to what the network takes.
VOCODERS = {"nsf-hifigan": 1.0, "nsf-hifigan-log10": 1 / math.log(10)}
_COMMAND = "python pretrain/download.py nsf-hifigan"


class NsfHifiganVocoder:
    """A mel vocoder, ready to run.

    Args:
        generator: in evaluation mode, weight norm folded, on its device.
        audio: rate and mel that it was trained on.
        mel_scale: factor on natural-log mels before they enter the network.
    """

    def __init__(self, generator: NSFGenerator, audio: AudioSpec, mel_scale: float = 1.0) -> None:
        self.generator, self.audio, self.mel_scale = generator, audio, mel_scale

    def mel(self, wav: torch.Tensor, key_shift: float = 0.0) -> torch.Tensor:
        """Natural-log mel (..., M, N) of `wav` (..., T), as if sung `key_shift` semitones higher."""
        return vocoder_mel(wav, self.audio, key_shift)

    @torch.inference_mode()
    def synthesize(self, mel: torch.Tensor, f0: torch.Tensor) -> torch.Tensor:
        """The waveform of a mel.

        Args:
            mel: (M, N) or (B, M, N) natural log.
            f0: (N,) or (B, N) Hz; frames beyond the mel's are left out.

        Returns:
            (N * hop_length,) or (B, N * hop_length) float32.
        """
        single = mel.dim() == 2
        weight = self.generator.conv_pre.weight
        f0 = f0[..., : mel.shape[-1]]
        frames = (mel[None] if single else mel).to(weight) * self.mel_scale
        wav = self.generator.in_windows(frames, (f0[None] if single else f0).to(weight.device).float())[:, 0]
        return wav[0] if single else wav


def load_vocoder(
    ckpt: Path | str, device: torch.device, dtype: torch.dtype = torch.float32, kind: str = "nsf-hifigan"
) -> NsfHifiganVocoder:
    """A vocoder from its files, `ckpt` and the `config.json` beside it.

    Args:
        ckpt: looked for in the workspace and beside the code.
        device: where it is to run.
        dtype: of the network; the harmonic source and the waveform are fp32 in any case.
        kind: "nsf-hifigan", or "nsf-hifigan-log10" for one that takes decimal logarithms.

    Raises:
        MissingWeights: no such file.
        ConfigError: unknown kind, or the config is missing or wrong.
        CheckpointError: damaged, not a vocoder, or it does not fit its config.
    """
    if kind not in VOCODERS:
        raise ConfigError(f"vocoder.type is {kind!r}; known are {', '.join(VOCODERS)}")
    path = find(str(ckpt))
    if path is None:
        raise MissingWeights(
            f"{ckpt}: no such vocoder in {Path.cwd()} or beside the code. Get the published one with: {_COMMAND} "
            "(or set vocoder.ckpt of the diffusion config to where yours is)"
        )
    config = load_vocoder_config(vocoder_config_path(path))
    found = _weights_of(load_weights(path), path)
    with torch.device("meta"):
        generator = build_vocoder(config)
    _check(found, generator.state_dict(), path)
    generator.to_empty(device="cpu").load_state_dict({name: found[name].float() for name in generator.state_dict()})
    fold_weight_norm(generator).eval().requires_grad_(False)
    source, generator.m_source = generator.m_source, None
    generator.to(dtype)
    generator.m_source = source
    return NsfHifiganVocoder(generator.to(device), config.audio, VOCODERS[kind])


def build_vocoder(config: VocoderConfig) -> nn.Module:
    """The untrained generator of a vocoder's config.json."""
    spec = GeneratorSpec(
        config.sampling_rate,
        tuple(config.upsample_rates),
        tuple(config.upsample_kernel_sizes),
        config.upsample_initial_channel,
        config.resblock,
        tuple(config.resblock_kernel_sizes),
        tuple(map(tuple, config.resblock_dilation_sizes)),
    )
    return NSFGenerator(config.num_mels, spec, slow_start=True)


def _weights_of(content: dict, path: Path) -> dict[str, torch.Tensor]:
    found = content.get("generator", content)
    is_weights = isinstance(found, dict) and all(isinstance(value, torch.Tensor) for value in found.values())
    if not is_weights or not any(str(name).startswith("conv_pre.") for name in found):
        raise CheckpointError(f"{path}: not a vocoder: it holds no conv_pre under 'generator'. Get it with: {_COMMAND}")
    return found


def _check(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], path: Path) -> None:
    """Refuses weights that are not those of the config.

    Raises:
        CheckpointError: names the first tensor that differs, with both shapes.
    """
    config_path = vocoder_config_path(path)
    for name, tensor in wanted.items():
        shape = list(found[name].shape) if name in found else None
        if shape != list(tensor.shape):
            has = "is missing" if shape is None else f"is {shape}"
            raise CheckpointError(
                f"{path}: tensor {name} {has}, {config_path} makes it {list(tensor.shape)}. Keep the model and its "
                f"config.json together; both come with: {_COMMAND}"
            )
    extra = sorted(set(found) - set(wanted))
    if extra:
        raise CheckpointError(
            f"{path}: has a tensor {extra[0]} that {config_path} has no place for; not its config.json"
        )
