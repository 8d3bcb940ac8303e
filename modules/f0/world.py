"""`dio` and `harvest`: the two F0 trackers of WORLD, refined by its StoneMask."""

import numpy as np

from modules.f0.base import PREDICTORS, PitchPredictor, resize_f0


class WorldPredictor(PitchPredictor):
    """What both share; WORLD calls them by the same names."""

    def track(self, wav: np.ndarray, n_frames: int) -> np.ndarray:
        """WORLD gives one frame more than N; the curve is resized."""
        import pyworld

        rate, wav = self.audio.sampling_rate, wav.astype(np.float64)
        coarse, times = getattr(pyworld, self.name)(
            wav, rate, f0_floor=self.f0_min, f0_ceil=self.f0_max, frame_period=1000 * self.hop_seconds
        )
        refined = pyworld.stonemask(wav, coarse, times, rate)
        return resize_f0(np.round(refined, 1) if self.name == "dio" else refined, n_frames)


@PREDICTORS.register("dio")
class DioPredictor(WorldPredictor):
    """Fast and needs no network; rounded to 0.1 Hz.

    Source: Morise, Kawahara and Katayose, "Fast and reliable F0 estimation method based on the period extraction of
    vocal fold vibration of singing voice and speech", 2009.
    """

    name = "dio"


@PREDICTORS.register("harvest")
class HarvestPredictor(WorldPredictor):
    """Slow, needs no network, keeps quiet endings voiced.

    Source: Morise, "Harvest: A high-performance fundamental frequency estimator from speech signals", 2017.
    """

    name = "harvest"
