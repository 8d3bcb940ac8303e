"""The enhancer: a voice model's output once more through the mel vocoder, which was trained on far more voices.

For notes above the vocoder's range the audio can be read slower, so that they sink into it, and the result played
faster again: the adaptive key.
"""

import numpy as np
import torch
from torch.nn import functional as F

from modules.audio.resampling import SincResampler
from modules.device import seeded
from vdecoder.mel_vocoder import NsfHifiganVocoder

SEED = 52468  # the one that the voice model's noise has
FILTER_WIDTH = 128  # zero crossings of the resampling filter


class NsfHifiganEnhancer:
    """A vocoder over the mel of finished audio at `sampling_rate` Hz whose F0 has `hop_length` samples per frame;
    `adaptive_key` semitones is the voice lowered for the vocoder."""

    def __init__(
        self, vocoder: NsfHifiganVocoder, sampling_rate: int, hop_length: int, adaptive_key: float = 0.0
    ) -> None:
        self.vocoder, self.sampling_rate, self.hop_length = vocoder, sampling_rate, hop_length
        target = vocoder.audio.sampling_rate
        # The rate at which audio is written that the vocoder then reads at its own.
        self._written_rate = 100 * round(target * 2 ** (adaptive_key / 12) / 100)
        self._factor = target / self._written_rate
        self._resample = SincResampler(vocoder.device, FILTER_WIDTH)

    @torch.inference_mode()
    def enhance(self, wav: torch.Tensor, f0: torch.Tensor) -> torch.Tensor:
        """`wav` (T,) with F0 `f0` (N,) Hz, re-synthesized: (T,) float32."""
        audio = self.vocoder.audio
        mel = self.vocoder.mel(self._resample(wav.float(), self.sampling_rate, self._written_rate))
        # The F0 at each frame of the vocoder, lowered as the audio is.
        given = np.arange(len(f0)) * self.hop_length / self.sampling_rate / self._factor
        wanted = np.arange(mel.shape[1]) * audio.hop_length / audio.sampling_rate
        read = np.interp(wanted, given, f0.float().cpu().numpy().astype(np.float64) * self._factor)
        with seeded(mel.device, SEED):  # the same song twice gives the same result
            generated = self.vocoder.synthesize(mel, torch.from_numpy(read).float().to(mel.device))
        out = self._resample(generated, self._written_rate, self.sampling_rate)
        missing = len(wav) - len(out)
        assert missing < 2 * audio.hop_length * self.sampling_rate / self._written_rate, "less than whole frames"
        return F.pad(out, (0, max(0, missing)))[: len(wav)]
