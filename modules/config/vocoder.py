"""The config.json beside a mel vocoder's weights: which mel it was trained on, and the sizes of its generator."""

import math
from pathlib import Path

from modules.config.audio import AudioSpec
from modules.config.io import read_json, validate
from modules.config.schema import Channels, Positive, Section
from modules.errors import ConfigError

# The published 44.1 kHz vocoder. Mels for training are made with these where its files are not there yet.
PUBLISHED_MEL = AudioSpec(44100, 2048, 512, 2048, 128, 40, 16000)


class VocoderConfig(Section):
    """The published form; keys that only its own training used are not named."""

    sampling_rate: Positive
    num_mels: Positive
    n_fft: Positive
    win_size: Positive
    hop_size: Positive
    fmin: float
    fmax: float
    resblock: str = "1"
    upsample_rates: Channels
    upsample_kernel_sizes: Channels
    upsample_initial_channel: Positive
    resblock_kernel_sizes: Channels
    resblock_dilation_sizes: list[Channels]

    @property
    def audio(self) -> AudioSpec:
        """Rate and mel that the vocoder expects."""
        return AudioSpec(
            self.sampling_rate, self.n_fft, self.hop_size, self.win_size, self.num_mels, self.fmin, self.fmax
        )


def vocoder_config_path(weights: Path | str) -> Path:
    """Where the config of a vocoder lies: `config.json` in the folder of its weights."""
    return Path(weights).parent / "config.json"


def load_vocoder_config(path: Path | str) -> VocoderConfig:
    """A checked vocoder config.

    Raises:
        ConfigError: no such file, not JSON, a value missing or wrong, or the mel's values contradict each other.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file. It comes with the vocoder: python pretrain/download.py nsf-hifigan")
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
    return config
