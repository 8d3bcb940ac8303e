"""`rmvpe`: a U-net on a log mel, robust to accompaniment; needs `pretrain/rmvpe.pt`."""

import torch
import torch.nn.functional as F

from modules.audio.mel import centered_log_mel
from modules.config.audio import AudioSpec
from modules.f0._networks.rmvpe import Rmvpe, RmvpeSizes
from modules.f0.base import PREDICTORS
from modules.f0.decode import BIN_CENTS, cents_to_hz, local_average
from modules.f0.network import NetworkPredictor, load_network
from modules.pretrained.catalogue import weights_of
from modules.pretrained.find import checksum, require
from modules.weights.foreign import load_foreign
from modules.weights.state_dict import tensors_of


@PREDICTORS.register("rmvpe")
class RmvpePredictor(NetworkPredictor):
    """The choice of most people for songs: survives accompaniment, reverb and noise. Finds 32 to 2000 Hz.

    Source: Wei, Cao, Dan and Chen, "RMVPE: A Robust Model for Vocal Pitch Estimation in Polyphonic Music", 2023,
    arXiv 2306.15412.
    """

    name = "rmvpe"
    spectrum = AudioSpec(16000, 1024, 160, 1024, 128, 30.0, 8000.0)
    window_seconds = 64.0
    # What the network keeps in mind of more distant sounds moves its scores by less than rounding does.
    context_seconds = 8.0

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        path = require(*weights_of("rmvpe"))
        weights = tensors_of(load_foreign(path))
        self._network = load_network(lambda: Rmvpe(RmvpeSizes.of(weights)), weights, path, "rmvpe").to(self.device)
        self._cents = torch.from_numpy(BIN_CENTS).float().to(self.device)
        self.pooled_frames = self._network.multiple

    @classmethod
    def identity(cls) -> str:
        """Name and checksum of the file."""
        return f"{cls.name}:{checksum(*weights_of('rmvpe'))}"

    @torch.inference_mode()
    def salience(self, wav: torch.Tensor) -> torch.Tensor:
        """Scores (n, 360) of a wave (t,) at the model's rate, n = t * 100 / rate + 1 rounded down."""
        wav = self.resample(wav)
        n_frames = len(wav) // self.spectrum.hop_length + 1
        # The spectrum mirrors half a window at both ends and so needs more than that.
        wav = F.pad(wav, (0, max(0, self.spectrum.n_fft - len(wav))))
        mel = centered_log_mel(wav, self.spectrum)[:, :n_frames]
        padded = F.pad(mel, (0, -n_frames % self.pooled_frames))
        return self._network(padded[None])[0, :n_frames]

    def track_window(self, wav: torch.Tensor) -> torch.Tensor:
        """The weighted mean around the best bin."""
        return cents_to_hz(local_average(self.salience(wav), self._cents, self.threshold, repeat_edge=False))
