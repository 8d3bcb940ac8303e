"""The augmented version of each clip that the diffusion model trains on: at another loudness and pitch.

What is drawn follows from a seed and the SHA-256 of the clip's file alone, whatever the order or the processes.
"""

import hashlib
import math
from collections.abc import Callable

import numpy as np
import torch

from modules.audio.loudness import frame_volume
from modules.audio.mel import vocoder_mel
from modules.audio.windows import compute_in_windows
from modules.config.audio import AudioSpec

KEY_RANGE = 5.0  # semitones, up and down
GAIN_LIMIT = 1.0  # log10: at most ten times louder or quieter
WHOLE_SECONDS = 60.0  # a clip up to here is computed at once: its spectrum takes 0.1 GB


def augment(wav: torch.Tensor, mel: AudioSpec, seed: int, digest: str) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The augmented version of a clip (T,) float32: its vocoder mel (M, N), volume (N,) and key shift in semitones."""
    key_shift, gain = draw(seed, digest, float(wav.abs().max()))
    changed = wav.float() * 10.0**gain
    shifted = in_windows(lambda part: vocoder_mel(part, mel, key_shift), changed, mel)
    return shifted, in_windows(lambda part: frame_volume(part, mel.hop_length), changed, mel), key_shift


def in_windows(
    compute: Callable[[torch.Tensor], torch.Tensor],
    wav: torch.Tensor,
    audio: AudioSpec,
    window_seconds: float = 10.0,
    context_seconds: float = 0.5,
) -> torch.Tensor:
    """`compute(wav)`, (..., N) of a clip (T,) at the hop of `audio`, at once up to a minute, else window by window."""
    if len(wav) <= WHOLE_SECONDS * audio.sampling_rate:
        return compute(wav)
    longest, context = (math.ceil(seconds * audio.frame_rate) for seconds in (window_seconds, context_seconds))
    return compute_in_windows(compute, wav, audio.hop_length, longest, context)


def draw(seed: int, digest: str, peak: float) -> tuple[float, float]:
    """Key shift of a clip in semitones, uniform in [-5, 5), and the log10 of its gain.

    The log10 is uniform from -1 to what full scale allows, but 1 at most: a peak of 0.5 allows log10(1 / 0.5) = 0.30.
    """
    # Two uniform numbers from a hash: no library's generator can change them between versions.
    drawn = hashlib.sha256(f"augmentation {seed} {digest}".encode()).digest()
    first, second = (int.from_bytes(part, "big") / 2**64 for part in (drawn[:8], drawn[8:16]))
    highest = min(GAIN_LIMIT, math.log10(1 / (peak + 1e-5)))
    # Rounded to float32, as it is stored.
    return float(np.float32(KEY_RANGE * (2 * first - 1))), -GAIN_LIMIT + second * (highest + GAIN_LIMIT)
