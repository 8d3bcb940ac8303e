"""`swift`: a very small network on a spectrum, from the package swift-f0 (an extra), which carries its weights."""

import numpy as np
import torch

from modules.audio.io import resample
from modules.errors import UsageError
from modules.f0.base import PREDICTORS, PitchPredictor, package_version, sample_curve


@PREDICTORS.register("swift")
class SwiftPredictor(PitchPredictor):
    """By far the fastest here, on any CPU; always runs there. Finds 47 to 2094 Hz.

    The package suggests a threshold of 0.5; with 0.05, the default here, it calls as many frames voiced as `fcpe` does.

    Source: Nieradzik, "SwiftF0: Fast and Accurate Monophonic Pitch Detection", 2025, arXiv 2508.18440.
    """

    name = "swift"

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._package = _import_swift()
        # Several of these run side by side in preprocessing: no more threads than torch may use, and none that spins.
        self._network = self._package.SwiftF0(threads=torch.get_num_threads(), spin=False)

    @classmethod
    def identity(cls) -> str:
        """Name and version of the package."""
        _import_swift()
        return f"{cls.name}:{package_version('swift-f0')}"

    def track(self, wav: np.ndarray, n_frames: int) -> np.ndarray:
        """Its frames, 16 ms apart, read at ours. The package itself takes long waves in windows that lose nothing."""
        core = self._package.core
        audio = resample(wav.astype(np.float32), self.audio.sampling_rate, core.SAMPLE_RATE)
        try:
            found = self._network.detect(audio, core.SAMPLE_RATE, self.f0_min, self.f0_max)
        except ValueError as error:
            raise UsageError(f"swift cannot look between {self.f0_min:g} and {self.f0_max:g} Hz: {error}") from None
        native = np.where(found.confidence > self.threshold, found.pitch_hz, 0.0)
        return sample_curve(native, core.FRAME_PERIOD, np.arange(n_frames) * self.hop_seconds)


def _import_swift():
    try:
        import swift_f0
    except ImportError as error:
        raise UsageError(
            f"f0 predictor swift needs the package {error.name}. Install it with: pip install swift-f0==0.3.0"
        ) from None
    return swift_f0
