"""The second version of each clip that the diffusion model trains on: another loudness, sung higher or lower.

What is drawn follows from a seed and the clip's bytes alone, so neither the order of the clips, nor the number of
processes, nor an interruption changes it. Which mel the vocoder wants is decided here too.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from modules.audio.mel import vocoder_mel
from modules.audio.volume import frame_volume
from modules.config.audio import AudioSpec
from modules.config.vocoder import PUBLISHED_MEL, load_vocoder_config, vocoder_config_path
from modules.errors import ConfigError
from modules.pretrained.find import find

KEY_RANGE = 5.0  # semitones, up and down
GAIN_LIMIT = 1.0  # log10: at most ten times louder or quieter


@dataclass(frozen=True)
class Augmented:
    """A clip as if sung `key_shift` semitones higher and 10^`gain` times as loud.

    Args:
        mel: (M, N) float32, natural log.
        volume: (N,) float32, of the louder or quieter clip.
        key_shift: semitones, exact in float32.
        gain: log10 of the factor.
    """

    mel: torch.Tensor
    volume: torch.Tensor
    key_shift: float
    gain: float


def augment(wav: torch.Tensor, mel: AudioSpec, seed: int, digest: str) -> Augmented:
    """The augmented version of a clip, always the same one for the same seed and clip.

    Args:
        wav: (T,) float32 at mel.sampling_rate.
        mel: the vocoder's mel.
        seed: of the run.
        digest: SHA-256 of the clip's file.
    """
    key_shift, gain = draw(seed, digest, float(wav.abs().max()))
    changed = wav.float() * 10.0**gain
    return Augmented(vocoder_mel(changed, mel, key_shift), frame_volume(changed, mel.hop_length), key_shift, gain)


def draw(seed: int, digest: str, peak: float) -> tuple[float, float]:
    """Key shift and gain of a clip.

    The key shift is uniform in [-5, 5) semitones. The gain is uniform, in log10, from -1 to what full scale allows,
    but 1 at most: a peak of 0.5 allows log10(1 / 0.5) = 0.30, the double.

    Args:
        seed: of the run.
        digest: SHA-256 of the clip's file.
        peak: largest absolute sample.

    Returns:
        Semitones (exact in float32, as they are stored) and log10 of the gain.
    """
    # Two uniform numbers from a hash: no library's generator can change them between versions.
    drawn = hashlib.sha256(f"augmentation {seed} {digest}".encode()).digest()
    first, second = (int.from_bytes(part, "big") / 2**64 for part in (drawn[:8], drawn[8:16]))
    highest = min(GAIN_LIMIT, math.log10(1 / (peak + 1e-5)))
    return float(np.float32(KEY_RANGE * (2 * first - 1))), -GAIN_LIMIT + second * (highest + GAIN_LIMIT)


def find_mel(weights: str) -> tuple[AudioSpec, Path | None]:
    """The mel of a vocoder and the config that says so; the published vocoder's mel and None where no config is there.

    Args:
        weights: `vocoder.ckpt` of diffusion.yaml, looked for as `modules.pretrained.find.find` does.

    Raises:
        ConfigError: the vocoder's config is damaged.
    """
    path = find(vocoder_config_path(weights).as_posix())
    return (PUBLISHED_MEL, None) if path is None else (load_vocoder_config(path).audio, path)


def require_same_frames(audio: AudioSpec, audio_path: Path | str, mel: AudioSpec, mel_path: Path | str) -> None:
    """Refuses a mel whose frames are not the model's.

    Args:
        audio: the model's rate and spectrum.
        audio_path: the file that says so.
        mel: the vocoder's mel.
        mel_path: the file that says so.

    Raises:
        ConfigError: rate or hop differ; the text names both files and both values.
    """
    for name, ours, theirs in (
        ("sampling rate", audio.sampling_rate, mel.sampling_rate),
        ("hop length", audio.hop_length, mel.hop_length),
    ):
        if ours != theirs:
            raise ConfigError(
                f"{audio_path} has the {name} {ours}, but {mel_path} has {theirs}; the diffusion model works between "
                "the two and needs one. Use a vocoder made for the model's audio, or change data in the config"
            )
