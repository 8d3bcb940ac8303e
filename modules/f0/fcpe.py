"""`fcpe`: a fast convolutional network on a mel spectrum, from the torchfcpe package, which carries its weights."""

import contextlib
import io
import logging

import numpy as np
import torch

from modules.f0.base import PREDICTORS, PitchPredictor
from modules.torchaudio_compat import import_torchfcpe

logger = logging.getLogger(__name__)

NATIVE_HOP_SECONDS = 0.01
FRAMES_PER_SECOND = 100
# Longer clips go through the network in windows, so that memory does not grow with them.
WINDOW_SECONDS = 60
CONTEXT_SECONDS = 1


@PREDICTORS.register("fcpe")
class FcpePredictor(PitchPredictor):
    """As exact as the slow ones, quick on a CPU.

    This is the network inside torchfcpe; the older one that so-vits-svc reads from `pretrain/fcpe.pt` is another.

    Source: Luo, Liu, Zhang and others, "FCPE: A Fast Context-based Pitch Estimation Model", 2025, arXiv 2509.15140.
    """

    name = "fcpe"
    is_network = True

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        with _quiet():
            self._network = import_torchfcpe().spawn_bundled_infer_model(device=str(self.device))

    def track(self, wav: np.ndarray, n_frames: int) -> np.ndarray:
        """The network's own frames brought to ours, out-of-range pitch refused."""
        native = self.track_native(wav)
        native = np.where(native < self.f0_min, 0.0, np.minimum(native, self.f0_max))
        return sample_curve(native, NATIVE_HOP_SECONDS, np.arange(n_frames) * self.hop_seconds)

    def track_native(self, wav: np.ndarray, threshold: float | None = None) -> np.ndarray:
        """Pitch every 10 ms, (n,) float64 Hz, 0 where the confidence is at most `threshold` (default: our own)."""
        rate = self.audio.sampling_rate
        threshold = self.threshold if threshold is None else threshold
        pieces = []
        for start in range(0, max(1, len(wav) - CONTEXT_SECONDS * rate), WINDOW_SECONDS * rate):
            before = min(start, CONTEXT_SECONDS * rate)
            end = start + (WINDOW_SECONDS + CONTEXT_SECONDS) * rate
            f0 = self._run(wav[start - before : end], threshold)[before // rate * FRAMES_PER_SECOND :]
            is_last = end >= len(wav)
            pieces.append(f0 if is_last else f0[: WINDOW_SECONDS * FRAMES_PER_SECOND])
        return np.concatenate(pieces)

    def _run(self, wav: np.ndarray, threshold: float) -> np.ndarray:
        audio = torch.from_numpy(wav).float().clamp(-1, 1)[None, :, None]
        with torch.no_grad(), _quiet():
            f0 = self._network(audio, self.audio.sampling_rate, "local_argmax", threshold)
        return f0[0, :, 0].double().cpu().numpy()


def sample_curve(f0: np.ndarray, hop_seconds: float, times: np.ndarray) -> np.ndarray:
    """A curve read at other times: the nearest frame says whether there is a voice, its neighbours how high.

    Between two voiced frames the logarithm of the pitch is interpolated, so that a glide stays a glide.

    Args:
        f0: (n,) Hz, 0 where unvoiced; frame i is at i hops.
        hop_seconds: of `f0`.
        times: (N,) seconds.

    Returns:
        (N,) Hz, 0 where unvoiced.
    """
    at = np.clip(times / hop_seconds, 0, len(f0) - 1)
    nearest = np.round(at).astype(np.int64)
    left = np.floor(at).astype(np.int64)
    right = np.minimum(left + 1, len(f0) - 1)
    both = (f0[left] > 0) & (f0[right] > 0)
    log = np.log(np.where(f0 > 0, f0, 1.0))
    blended = np.exp(log[left] + (at - left) * (log[right] - log[left]))
    return np.where(both, blended, f0[nearest])


@contextlib.contextmanager
def _quiet():
    """Turns what the package prints into debug records."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        yield
    for line in printed.getvalue().splitlines():
        logger.debug("torchfcpe: %s", line.strip())
