"""The augmented version of each clip that the diffusion model trains on: at another loudness and pitch.

What is drawn follows from a seed and the clip's bytes alone, so neither the order of the clips, nor the number of
processes, nor an interruption changes it.
"""

import hashlib
import math

import numpy as np
import torch

from modules.audio.loudness import frame_volume
from modules.audio.mel import vocoder_mel
from modules.config.audio import AudioSpec

KEY_RANGE = 5.0  # semitones, up and down
GAIN_LIMIT = 1.0  # log10: at most ten times louder or quieter


def augment(wav: torch.Tensor, mel: AudioSpec, seed: int, digest: str) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The augmented version of a clip (T,) float32: its mel (M, N), its volume (N,) and its key shift in semitones.

    Args:
        wav: at mel.sampling_rate.
        mel: the vocoder's mel.
        digest: SHA-256 of the clip's file.
    """
    key_shift, gain = draw(seed, digest, float(wav.abs().max()))
    changed = wav.float() * 10.0**gain
    return vocoder_mel(changed, mel, key_shift), frame_volume(changed, mel.hop_length), key_shift


def draw(seed: int, digest: str, peak: float) -> tuple[float, float]:
    """Key shift of a clip in semitones, uniform in [-5, 5), and the log10 of its gain.

    The log10 is uniform from -1 to what full scale allows, but 1 at most: a peak of 0.5 allows log10(1 / 0.5) = 0.30.

    Args:
        digest: SHA-256 of the clip's file.
        peak: largest absolute sample.
    """
    # Two uniform numbers from a hash: no library's generator can change them between versions.
    drawn = hashlib.sha256(f"augmentation {seed} {digest}".encode()).digest()
    first, second = (int.from_bytes(part, "big") / 2**64 for part in (drawn[:8], drawn[8:16]))
    highest = min(GAIN_LIMIT, math.log10(1 / (peak + 1e-5)))
    # Rounded to float32, as it is stored.
    return float(np.float32(KEY_RANGE * (2 * first - 1))), -GAIN_LIMIT + second * (highest + GAIN_LIMIT)
