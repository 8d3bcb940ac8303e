"""The pretrained mel vocoder: a log mel and an F0 to a waveform, and the mel of a waveform as it was trained on."""

import math
from pathlib import Path

import torch

from modules.audio.mel import vocoder_mel
from modules.config.audio import AudioSpec
from modules.config.vocoder import VocoderConfig, find_vocoder, load_vocoder_config, vocoder_config_path
from modules.device import WithoutDrawing
from modules.errors import CheckpointError, ConfigError
from modules.weights.checkpoint import load_weights
from modules.weights.state_dict import fit, tensors_of
from vdecoder.nsf_hifigan import GeneratorSpec, NSFGenerator, prepare_for_inference

# Name in diffusion.yaml -> factor from the natural-log mel to what the network takes.
VOCODERS = {"nsf-hifigan": 1.0, "nsf-hifigan-log10": 1 / math.log(10)}
_COMMAND = "python pretrain/download.py nsf-hifigan"


class NsfHifiganVocoder:
    """A mel vocoder, ready to run: a generator prepared for inference, the rate and mel `audio` that it was trained on,
    and the factor `mel_scale` on natural-log mels before they enter it."""

    def __init__(self, generator: NSFGenerator, audio: AudioSpec, mel_scale: float = 1.0) -> None:
        self.generator, self.audio, self.mel_scale = generator, audio, mel_scale
        self.device = generator.conv_pre.weight.device

    def mel(self, wav: torch.Tensor, key_shift: float = 0.0) -> torch.Tensor:
        """Natural-log mel (..., M, N) of `wav` (..., T), as if `key_shift` semitones higher."""
        return vocoder_mel(wav, self.audio, key_shift)

    @torch.inference_mode()
    def synthesize(self, mel: torch.Tensor, f0: torch.Tensor, needed: slice | None = None) -> torch.Tensor:
        """The waveform (N * hop_length,) or (B, N * hop_length) float32 of a natural-log mel (M, N) or (B, M, N).

        `f0` is (N,) or (B, N) Hz; frames beyond the mel's are left out. Only the `needed` frames are made, None for
        all; the others are 0.
        """
        single = mel.dim() == 2
        f0 = f0[..., : mel.shape[-1]]
        frames = (mel[None] if single else mel).to(self.generator.conv_pre.weight) * self.mel_scale
        f0 = (f0[None] if single else f0).to(self.device).float()
        wav = self.generator.in_windows(frames, f0, needed=needed)[:, 0]
        return wav[0] if single else wav


def load_vocoder(
    ckpt: Path | str, device: torch.device, dtype: torch.dtype = torch.float32, kind: str = "nsf-hifigan"
) -> NsfHifiganVocoder:
    """A vocoder from `ckpt`, in the workspace or beside the code, and the `config.json` next to it.

    `dtype` is that of the network; the harmonic source and the waveform are fp32 in any case. The kind
    "nsf-hifigan-log10" takes decimal logarithms.
    """
    if kind not in VOCODERS:
        raise ConfigError(f"vocoder.type is {kind!r}; known are {', '.join(VOCODERS)}")
    path = find_vocoder(ckpt)
    config_path = vocoder_config_path(path)
    config = load_vocoder_config(config_path)
    # A training checkpoint of the vocoder has "generator." before its names.
    found = {name.removeprefix("generator."): value for name, value in tensors_of(load_weights(path)).items()}
    if not any(name.startswith("conv_pre.") for name in found):
        raise CheckpointError(f"{path}: not a vocoder: it holds no conv_pre under 'generator'. Get it with: {_COMMAND}")
    with WithoutDrawing():
        generator = build_vocoder(config)
    remedy = f"Keep the model and its config.json together; both come with: {_COMMAND}"
    weights = fit(found, generator.state_dict(), path, remedy, str(config_path), no_extra=("",))
    generator.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
    prepare_for_inference(generator, generator, dtype)
    return NsfHifiganVocoder(generator.to(device), config.audio, VOCODERS[kind])


def build_vocoder(config: VocoderConfig) -> NSFGenerator:
    """The untrained generator of a vocoder's config.json."""
    spec = GeneratorSpec(
        config.sampling_rate,
        config.upsample_rates,
        config.upsample_kernel_sizes,
        config.upsample_initial_channel,
        config.resblock,
        config.resblock_kernel_sizes,
        config.resblock_dilation_sizes,
        mini_nsf=config.mini_nsf,
    )
    return NSFGenerator(config.num_mels, spec, slow_start=True)
