"""PREDICTORS, and what all F0 predictors share: input checks, resizing to N frames, gap filling, voicing."""

from abc import ABC, abstractmethod
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import torch
import torch.nn.functional as F

from modules.config.audio import AudioSpec
from modules.contracts import F0
from modules.device import choose_device
from modules.errors import AudioError
from modules.f0.limits import F0_MAX, F0_MIN, HIGHEST, LOWEST
from modules.f0.octaves import check_octaves
from modules.registry import Registry

DEFAULT_THRESHOLD = 0.05


class PitchPredictor(ABC):
    """Pitch of a clip on the frames of the model whose rate and hop `audio` holds, within f0_min and f0_max Hz.

    `threshold` is the confidence, 0 to 1, below which a network calls a frame unvoiced; `pm`, `dio` and `harvest` have
    their own rules. A subclass has one method, `track`.
    """

    name = ""
    is_network = False  # runs on the device; the others compute on the CPU whatever the device is
    has_default_limits = True  # F0_MIN and F0_MAX are limits like any other

    def __init__(
        self,
        audio: AudioSpec,
        *,
        threshold: float = DEFAULT_THRESHOLD,
        device: torch.device | str | None = None,
        f0_min: float = F0_MIN,
        f0_max: float = F0_MAX,
    ) -> None:
        self.audio, self.threshold, self.f0_min, self.f0_max = audio, threshold, f0_min, f0_max
        self.device = choose_device() if device is None else torch.device(device)
        self.hop_seconds = audio.hop_length / audio.sampling_rate

    def predict(self, wav: np.ndarray) -> F0:
        """Pitch and voicing of `wav` (T,) in [-1, 1] at the model's rate, which stays as it is.

        N = T // hop_length frames, gaps filled, octave errors repaired; all zero, and `uv` too, if nothing is voiced.
        So it is for silence and for clips shorter than three periods of f0_min, in which no method finds a pitch. An
        AudioError where a sample is not finite.
        """
        wav = np.asarray(wav)
        if not np.isfinite(wav).all():
            raise AudioError("the audio holds samples that are not finite; repair the file")
        n_frames = self.audio.n_frames(len(wav))
        shortest = 3 * self.audio.sampling_rate / self.f0_min
        if n_frames == 0 or len(wav) <= shortest or not wav.any():
            return fill_gaps(np.zeros(n_frames))
        curve = np.nan_to_num(self.track(wav, n_frames), nan=0.0, posinf=0.0, neginf=0.0)
        assert curve.shape == (n_frames,), f"{self.name}: {curve.shape} for {n_frames} frames"
        curve, heard = check_octaves(wav, self.audio.sampling_rate, self.hop_seconds, curve, *self.limits)
        return replace(fill_gaps(curve), heard=heard)

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest pitch in Hz that a curve may have."""
        free_low = not self.has_default_limits and self.f0_min == F0_MIN
        free_high = not self.has_default_limits and self.f0_max == F0_MAX
        return LOWEST if free_low else self.f0_min, HIGHEST if free_high else self.f0_max

    @abstractmethod
    def track(self, wav: np.ndarray, n_frames: int) -> np.ndarray:
        """Pitch in Hz, (N,), 0 where unvoiced, of `wav` (T,) float32 or float64, which it leaves as it is."""

    @classmethod
    def identity(cls) -> str:
        """See `predictor_identity`."""
        return cls.name


PREDICTORS: Registry[type[PitchPredictor]] = Registry("f0 predictor", "modules.f0")


def build_predictor(
    name: str,
    audio: AudioSpec,
    *,
    threshold: float = DEFAULT_THRESHOLD,
    device: torch.device | str | None = None,
    f0_min: float = F0_MIN,
    f0_max: float = F0_MAX,
) -> PitchPredictor:
    """The predictor of that name, loaded; arguments as `PitchPredictor`."""
    return PREDICTORS.get(name)(audio, threshold=threshold, device=device, f0_min=f0_min, f0_max=f0_max)


def predictor_identity(name: str) -> str:
    """What a predictor's curves depend on besides the audio, the threshold and the limits: the name; for a network also
    the SHA-256 of its file ("rmvpe:6d62...") or the version of its package ("crepe:torchcrepe-0.0.24")."""
    return PREDICTORS.get(name).identity()


def package_version(package: str) -> str:
    """Name and version of an installed package, "torchcrepe-0.0.24"."""
    return f"{package}-{version(package)}"


def fill_gaps(f0: np.ndarray) -> F0:
    """Voicing of a curve (N,) Hz, 0 where unvoiced, and the curve with these frames filled; all zero if none is voiced.

    A gap gets the straight line between its voiced neighbours; before the first and after the last voiced frame their
    value is held.
    """
    voiced = f0 > 0
    if not voiced.any():
        return F0(np.zeros(len(f0), np.float32), np.zeros(len(f0), np.float32))
    frames = np.arange(len(f0))
    filled = np.interp(frames, frames[voiced], f0[voiced])
    return F0(filled.astype(np.float32), voiced.astype(np.float32))


def resize_f0(f0: np.ndarray, n_frames: int) -> np.ndarray:
    """A curve (n,) Hz, 0 where unvoiced, stretched linearly: (N,) float64, frame i looks at i * n / N. What touches an
    unvoiced frame is unvoiced."""
    n = len(f0)
    marked = np.where(f0 < 0.001, np.nan, f0)  # so that a gap is not blended with its neighbours
    at = np.arange(0, n * n_frames, n) / n_frames
    return np.nan_to_num(np.interp(at, np.arange(n), marked))


def resize_nearest(f0: np.ndarray, n_frames: int) -> np.ndarray:
    """A curve (n,) with frames repeated or left out to make `n_frames`; frame i takes floor(i * n / N)."""
    return F.interpolate(torch.from_numpy(f0)[None, None], size=n_frames, mode="nearest")[0, 0].numpy()


def sample_curve(f0: np.ndarray, hop_seconds: float, times: np.ndarray) -> np.ndarray:
    """A curve (n,) Hz, 0 where unvoiced, read at `times` (N,) in seconds; frame i of the curve is at i hops.

    The nearest frame decides about voicing; between two voiced frames the logarithm of the pitch is interpolated.
    """
    at = np.clip(times / hop_seconds, 0, len(f0) - 1)
    nearest = np.round(at).astype(np.int64)
    left = np.floor(at).astype(np.int64)
    right = np.minimum(left + 1, len(f0) - 1)
    both = (f0[left] > 0) & (f0[right] > 0)
    log = np.log(np.where(f0 > 0, f0, 1.0))
    blended = np.exp(log[left] + (at - left) * (log[right] - log[left]))
    return np.where(both, blended, f0[nearest])
