"""The config.json beside a mel vocoder's weights: which mel it was trained on, and the sizes of its generator."""

import math
from pathlib import Path
from typing import Annotated

from pydantic import Field

from modules.config.audio import AudioSpec
from modules.config.io import read_json, validate
from modules.config.schema import Section, SizeLists, Sizes, Width, decoder_parameters, refuse_absurd
from modules.errors import ConfigError, MissingWeights
from modules.pretrained.find import find

# The published 44.1 kHz vocoder. Mels for training are made with these where its files are not there yet.
PITCH_CONTROLLABLE = "pretrain/pc_nsf_hifigan/model.ckpt"
PUBLISHED_MEL = AudioSpec(44100, 2048, 512, 2048, 128, 40, 16000)

_COMMAND = "python pretrain/download.py nsf-hifigan"


class VocoderConfig(Section):
    """The published form; keys that only its own training used are not named."""

    sampling_rate: Annotated[int, Field(gt=0, le=1_000_000)]
    num_mels: Width
    n_fft: Width
    win_size: Width
    hop_size: Width
    fmin: float
    fmax: float
    resblock: str = "1"
    upsample_rates: Sizes
    upsample_kernel_sizes: Sizes
    upsample_initial_channel: Width
    resblock_kernel_sizes: Sizes
    resblock_dilation_sizes: SizeLists
    mini_nsf: bool = False  # PC-NSF-HiFiGAN, which sings a mel at another pitch than its own
    noise_sigma: float = 0.0  # of its source's noise: none in published ones, and none here

    @property
    def audio(self) -> AudioSpec:
        """Rate and mel that the vocoder expects."""
        return AudioSpec(
            self.sampling_rate, self.n_fft, self.hop_size, self.win_size, self.num_mels, self.fmin, self.fmax
        )


def find_vocoder(ckpt: Path | str) -> Path:
    """The weights `ckpt` of a vocoder, in the workspace or beside the code; else a MissingWeights."""
    if (path := find(str(ckpt))) is None:
        raise MissingWeights(
            f"{ckpt}: no such vocoder in {Path.cwd()} or beside the code. Get the published one with: {_COMMAND} "
            "(or set vocoder.ckpt of the diffusion config to where yours is)"
        )
    return path


def vocoder_config_path(weights: Path | str) -> Path:
    """Where the config of a vocoder lies: `config.json` in the folder of its weights."""
    return Path(weights).parent / "config.json"


def load_vocoder_config(path: Path | str) -> VocoderConfig:
    """A checked vocoder config; a ConfigError names the file and what is wrong in it."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file. It comes with the vocoder: {_COMMAND}")
    config = validate(VocoderConfig, read_json(path), str(path))
    try:
        audio = config.audio
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    product = math.prod(config.upsample_rates)
    if product != audio.hop_length:
        raise ConfigError(
            f"{path}: hop_size is {audio.hop_length} but upsample_rates {config.upsample_rates} multiply to {product}"
        )
    if config.mini_nsf and config.noise_sigma != 0:
        raise ConfigError(
            f"{path}: noise_sigma is {config.noise_sigma:g}; only PC-NSF-HiFiGAN without noise in its source (0) is "
            "known here. Take another vocoder."
        )
    keys = "num_mels, upsample_initial_channel, upsample_kernel_sizes, resblock_kernel_sizes"
    refuse_absurd({keys: decoder_parameters(config.num_mels, config)}, str(path))
    return config


def choose_vocoder(ckpt: str, formant_key: float = 0.0) -> str:
    """The vocoder `ckpt`, which must be there; with a formant key one that can sing a mel at another pitch: the
    downloaded one where `ckpt` cannot and both take the same mel."""
    if formant_key == 0 or (find(ckpt) is not None and _vocoder_beside(ckpt).mini_nsf):
        find_vocoder(ckpt)
        return ckpt
    if find(PITCH_CONTROLLABLE) is None:
        raise MissingWeights(
            f"--formant_key needs the vocoder PC-NSF-HiFiGAN: {ckpt} sings a mel at its own pitch only, and there is "
            f"no {PITCH_CONTROLLABLE}. Get it with: {_COMMAND.replace('nsf-', 'pc-nsf-')}"
        )
    found = _vocoder_beside(PITCH_CONTROLLABLE)
    if not found.mini_nsf:
        raise ConfigError(f"{PITCH_CONTROLLABLE}: is no PC-NSF-HiFiGAN (its config.json has no mini_nsf)")
    if (mel := find_mel(ckpt)[0]) != found.audio:
        raise ConfigError(f"--formant_key: {PITCH_CONTROLLABLE} takes another mel ({found.audio}) than {ckpt} ({mel})")
    return PITCH_CONTROLLABLE


def _vocoder_beside(ckpt: str) -> VocoderConfig:
    return load_vocoder_config(vocoder_config_path(find_vocoder(ckpt)))


def find_mel(weights: str) -> tuple[AudioSpec, Path | None]:
    """The mel of a vocoder and the config that says so; the published one's and None where there is no config."""
    path = find(vocoder_config_path(weights).as_posix())
    return (PUBLISHED_MEL, None) if path is None else (load_vocoder_config(path).audio, path)


def require_same_frames(audio: AudioSpec, audio_path: Path | str, mel: AudioSpec, mel_path: Path | str) -> None:
    """Refuses a vocoder's mel whose frames are not those of the model's audio."""
    for name in ("sampling_rate", "hop_length"):
        ours, theirs = getattr(audio, name), getattr(mel, name)
        if ours != theirs:
            raise ConfigError(
                f"{audio_path} has the {name.replace('_', ' ')} {ours}, but {mel_path} has {theirs}; the diffusion "
                "model works between the two and needs one. Use a vocoder made for the model's audio, or change data "
                "in the config"
            )
