"""The enhancer: what a voice model sang, once more through the mel vocoder, which has heard far more voices.

For notes above the vocoder's range the audio can be read slower, so that they sink into it, and the result played
faster again: the adaptive key.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from modules.audio.torchaudio_compat import import_torchaudio
from vdecoder.mel_vocoder import NsfHifiganVocoder

FILTER_WIDTH = 128  # zero crossings of the resampling filter


class NsfHifiganEnhancer:
    """A vocoder over the mel of finished audio.

    Args:
        vocoder: ready to run.
        sampling_rate: of the audio, Hz.
        hop_length: samples per frame of its pitch.
        adaptive_key: semitones by which the vocoder hears the voice lower; 0 hears it as it is.
    """

    def __init__(
        self, vocoder: NsfHifiganVocoder, sampling_rate: int, hop_length: int, adaptive_key: float = 0.0
    ) -> None:
        self.vocoder, self.sampling_rate, self.hop_length = vocoder, sampling_rate, hop_length
        target = vocoder.audio.sampling_rate
        # The rate at which audio is written that the vocoder then reads at its own.
        self._written_rate = 100 * round(target * 2 ** (adaptive_key / 12) / 100)
        self._factor = target / self._written_rate
        self._filters: dict[tuple[int, int], nn.Module] = {}

    @torch.inference_mode()
    def enhance(self, wav: torch.Tensor, f0: torch.Tensor) -> torch.Tensor:
        """`wav` (T,) with pitch `f0` (N,) Hz, re-synthesised: (T,) float32."""
        audio = self.vocoder.audio
        heard = self._resample(wav.float(), self.sampling_rate, self._written_rate)
        mel = self.vocoder.mel(heard)
        pitch = self._read_pitch(f0, mel.shape[1]).to(wav.device)
        made = self._resample(self.vocoder.synthesize(mel, pitch), self._written_rate, self.sampling_rate)
        missing = len(wav) - len(made)
        assert missing < 2 * audio.hop_length * self.sampling_rate / self._written_rate, "less than whole frames"
        return F.pad(made, (0, max(0, missing)))[: len(wav)]

    def _read_pitch(self, f0: torch.Tensor, n_frames: int) -> torch.Tensor:
        """The pitch that the vocoder hears at each of its frames."""
        audio = self.vocoder.audio
        given = np.arange(len(f0)) * self.hop_length / self.sampling_rate / self._factor
        wanted = np.arange(n_frames) * audio.hop_length / audio.sampling_rate
        read = np.interp(wanted, given, f0.float().cpu().numpy().astype(np.float64) * self._factor)
        return torch.from_numpy(read).float()

    def _resample(self, wav: torch.Tensor, from_rate: int, to_rate: int) -> torch.Tensor:
        if from_rate == to_rate:
            return wav
        divisor = math.gcd(from_rate, to_rate)
        key = (from_rate // divisor, to_rate // divisor)
        if key not in self._filters:
            transforms = import_torchaudio().transforms
            self._filters[key] = transforms.Resample(*key, lowpass_filter_width=FILTER_WIDTH).to(wav.device)
        return self._filters[key](wav)
