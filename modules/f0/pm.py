"""`pm`: Praat's autocorrelation pitch tracker."""

import numpy as np

from modules.f0.base import PREDICTORS, PitchPredictor


@PREDICTORS.register("pm")
class PraatPredictor(PitchPredictor):
    """Quick and needs no network; breathy or noisy voices lose frames.

    Source: Boersma, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a
    sampled sound", 1993.
    """

    name = "pm"

    def track(self, wav: np.ndarray, n_frames: int) -> np.ndarray:
        """Praat places as many frames as fit and centres them; the ends it leaves out are unvoiced."""
        import parselmouth

        pitch = parselmouth.Sound(wav.astype(np.float64), self.audio.sampling_rate).to_pitch_ac(
            time_step=self.hop_seconds,
            voicing_threshold=0.6,
            pitch_floor=self.f0_min,
            pitch_ceiling=self.f0_max,
        )
        found = pitch.selected_array["frequency"]
        missing = max(0, n_frames - len(found))
        left = (missing + 1) // 2
        return np.pad(found, (left, missing - left))[:n_frames]
