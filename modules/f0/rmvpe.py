"""`rmvpe`: a U-net on a log mel, robust to accompaniment; needs `pretrain/rmvpe.pt`."""

import numpy as np
import torch
import torch.nn.functional as F

from modules.audio.mel import centered_log_mel
from modules.config.audio import AudioSpec
from modules.f0._networks.rmvpe import UNUSED_PREFIX, Rmvpe, RmvpeSizes
from modules.f0.base import PREDICTORS, PitchPredictor, resize_nearest
from modules.f0.blocks import BlockPlan, run_in_blocks
from modules.f0.decode import BIN_CENTS, cents_to_hz, local_average
from modules.f0.network import fill_network, make_resampler, read_state
from modules.pretrained.catalogue import weights_of
from modules.pretrained.find import checksum, require
from modules.weights.foreign import load_foreign

SPECTRUM = AudioSpec(16000, 1024, 160, 1024, 128, 30.0, 8000.0)
BLOCK_SECONDS = 64.0
# What the network keeps in mind of more distant sounds moves its scores by less than rounding does.
CONTEXT_SECONDS = 8.0


@PREDICTORS.register("rmvpe")
class RmvpePredictor(PitchPredictor):
    """The choice of most people for songs: survives accompaniment, reverb and noise.

    Up to 64 s go through the network at once, as in so-vits-svc; longer waves in pieces of 64 s. It hears from 32 to
    2000 Hz, see `PitchPredictor.keep_limits`.

    Raises:
        MissingWeights: `pretrain/rmvpe.pt` is not there.
        CheckpointError: it cannot be used.

    Source: Wei, Cao, Dan and Chen, "RMVPE: A Robust Model for Vocal Pitch Estimation in Polyphonic Music", 2023,
    arXiv 2306.15412.
    """

    name = "rmvpe"
    is_network = True

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        path = require(*weights_of("rmvpe"))
        state = read_state(load_foreign(path))
        state = {key: value for key, value in state.items() if not key.startswith(UNUSED_PREFIX)}
        self._network = fill_network(lambda: Rmvpe(RmvpeSizes.of(state)), state, path, "rmvpe").to(self.device)
        self._resample = make_resampler(self.audio.sampling_rate, SPECTRUM.sampling_rate, self.device)
        self._cents = torch.from_numpy(BIN_CENTS).float().to(self.device)
        self._plan = BlockPlan(
            self.audio.sampling_rate,
            multiple=self._network.multiple,
            seconds=BLOCK_SECONDS,
            context_seconds=CONTEXT_SECONDS,
        )

    @classmethod
    def identity(cls) -> str:
        """Name and checksum of the file."""
        return f"{cls.name}:{checksum(*weights_of('rmvpe'))}"

    def track(self, wav: np.ndarray, n_frames: int) -> np.ndarray:
        """The network's frames, 10 ms apart, repeated or left out to make ours."""
        native = run_in_blocks(wav, self._plan, self._track_piece, self.device)
        return resize_nearest(self.keep_limits(native), n_frames)

    @torch.inference_mode()
    def salience(self, wav: torch.Tensor) -> torch.Tensor:
        """Scores (n, 360) of a wave (t,) at the model's rate, n = t * 100 / rate + 1 rounded down."""
        wav = self._resample(wav)
        n_frames = len(wav) // SPECTRUM.hop_length + 1
        # The spectrum mirrors half a window at both ends and so needs more than that.
        wav = F.pad(wav, (0, max(0, SPECTRUM.n_fft - len(wav))))
        mel = centered_log_mel(wav, SPECTRUM)[:, :n_frames]
        padded = F.pad(mel, (0, -n_frames % self._network.multiple))
        return self._network(padded[None])[0, :n_frames]

    def _track_piece(self, wav: torch.Tensor) -> torch.Tensor:
        return cents_to_hz(local_average(self.salience(wav), self._cents, self.threshold, repeat_edge=False))
