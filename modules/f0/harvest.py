"""`harvest`: WORLD's careful pitch tracker."""

import numpy as np

from modules.f0.base import PREDICTORS, PitchPredictor, resize_f0


@PREDICTORS.register("harvest")
class HarvestPredictor(PitchPredictor):
    """Slow, needs no network, keeps quiet endings voiced; refined by StoneMask.

    Source: Morise, "Harvest: A high-performance fundamental frequency estimator from speech signals", 2017.
    """

    name = "harvest"

    def track(self, wav: np.ndarray, n_frames: int) -> np.ndarray:
        """WORLD gives one frame more than N; the curve is resized."""
        import pyworld

        rate = self.audio.sampling_rate
        wav = wav.astype(np.float64)
        coarse, times = pyworld.harvest(
            wav, rate, f0_floor=self.f0_min, f0_ceil=self.f0_max, frame_period=1000 * self.hop_seconds
        )
        return resize_f0(pyworld.stonemask(wav, coarse, times, rate), n_frames)
