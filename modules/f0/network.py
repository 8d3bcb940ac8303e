"""What F0 networks with a file share: weights, the way to their rate, and long waves in windows."""

import math
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from modules.audio.resampling import SincResampler
from modules.audio.windows import plan_windows
from modules.config.audio import AudioSpec
from modules.device import WithoutDrawing
from modules.errors import CheckpointError
from modules.f0.base import PitchPredictor, resize_nearest
from modules.f0.limits import HIGHEST, LOWEST
from modules.weights.state_dict import fit

FILTER_WIDTH = 128  # zero crossings to each side; so-vits-svc resamples this sharply before its F0 networks


class NetworkPredictor(PitchPredictor):
    """A predictor whose network has frames of its own; a subclass has `track_window`.

    A wave up to `window_seconds` goes through at once, as in so-vits-svc. Windows of longer ones start where a frame of
    the network meets a sample, on the grid of its pooling.
    """

    is_network = True
    has_default_limits = False  # so-vits-svc let its networks find whatever they can
    spectrum = AudioSpec(16000, 1024, 160, 1024, 128, 0.0, 8000.0)  # input of the network, whose frames it has
    pooled_frames = 1  # that the network pools into one
    window_seconds = 60.0
    context_seconds = 2.0  # on both sides of what is kept

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._resampler = SincResampler(self.device, FILTER_WIDTH)

    @abstractmethod
    def track_window(self, wav: torch.Tensor) -> torch.Tensor:
        """Pitch (n,) in Hz, 0 where unvoiced, of `wav` (t,) float32 at the model's rate; frame i is i hops in."""

    def track(self, wav: np.ndarray, n_frames: int) -> np.ndarray:
        """The network's frames repeated or left out to make the model's."""
        return resize_nearest(self.keep_limits(self.track_native(wav)), n_frames)

    def track_native(self, wav: np.ndarray) -> np.ndarray:
        """Pitch at the network's own frames: (n,) float64 Hz, 0 where unvoiced."""
        curves = []
        for read, keep in self.windows(len(wav)):
            window = torch.from_numpy(wav[read].astype(np.float32)).to(self.device)
            curves.append(self.track_window(window)[keep])
        return torch.cat(curves).cpu().double().numpy()

    def windows(self, n_samples: int) -> list[tuple[slice, slice]]:
        """Samples of each window, and which frames of the network are kept of it.

        One frame is hop * rate / native rate samples, which need not be whole: of 10 ms, at 44.1 kHz it is 441 samples,
        at 22.05 kHz it is 220.5 and a window may start at every second one.
        """
        native_rate = self.spectrum.sampling_rate
        samples = self.spectrum.hop_length * self.audio.sampling_rate  # of a frame, times the native rate
        n_frames = -(-n_samples * native_rate // samples)
        frame_rate = self.spectrum.frame_rate
        grid = math.lcm(native_rate // math.gcd(native_rate, samples), self.pooled_frames)
        plan = plan_windows(n_frames, self.window_seconds * frame_rate, self.context_seconds * frame_rate, grid)
        return [
            (
                slice(read.start * samples // native_rate, min(n_samples, read.stop * samples // native_rate)),
                # The network may have a frame more, centred at the end.
                slice(keep.start, None if read.stop == n_frames else keep.stop),
            )
            for read, keep in plan
        ]

    def keep_limits(self, f0: np.ndarray) -> np.ndarray:
        """A curve (n,) Hz within f0_min and f0_max: lower is unvoiced, higher becomes f0_max."""
        low, high = self.limits
        f0 = f0 if low == LOWEST else np.where(f0 < low, 0.0, f0)
        return f0 if high == HIGHEST else np.minimum(f0, high)

    def resample(self, wav: torch.Tensor) -> torch.Tensor:
        """A wave (t,) at the model's rate brought to the network's."""
        return self._resampler(wav, self.audio.sampling_rate, self.spectrum.sampling_rate)


def load_network(build: Callable[[], nn.Module], weights: dict[str, torch.Tensor], path: Path, name: str) -> nn.Module:
    """What `build` makes, in float32 with the weights of the file `path` (`name` for `pretrain/download.py`), ready to
    run, on the CPU; weights that the network has not are left out."""
    remedy = f"Get the file with: python pretrain/download.py {name}"
    try:
        with WithoutDrawing():
            network = build()
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: not the weights of {name} ({reason}). {remedy}") from None
    fitting = fit(weights, network.state_dict(), path, remedy)
    # Copied: the file is mapped into memory, and somebody may replace it while this runs.
    network.load_state_dict({key: value.clone() for key, value in fitting.items()}, assign=True)
    return network.float().eval().requires_grad_(False)
