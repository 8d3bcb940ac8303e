"""`dio`: WORLD's fast pitch tracker."""

import numpy as np

from modules.f0.base import PREDICTORS, PitchPredictor, resize_f0


@PREDICTORS.register("dio")
class DioPredictor(PitchPredictor):
    """Fast and needs no network; refined by StoneMask and rounded to 0.1 Hz.

    Source: Morise, Kawahara and Katayose, "Fast and reliable F0 estimation method based on the period extraction of
    vocal fold vibration of singing voice and speech", 2009.
    """

    name = "dio"

    def track(self, wav: np.ndarray, n_frames: int) -> np.ndarray:
        """WORLD gives one frame more than N; the curve is resized."""
        import pyworld

        rate = self.audio.sampling_rate
        wav = wav.astype(np.float64)
        coarse, times = pyworld.dio(
            wav, rate, f0_floor=self.f0_min, f0_ceil=self.f0_max, frame_period=1000 * self.hop_seconds
        )
        refined = pyworld.stonemask(wav, coarse, times, rate)
        return resize_f0(np.round(refined, 1), n_frames)
