"""Speaker similarity: a GE2E speaker encoder with the weights of Resemblyzer (Apache 2.0), of which no code is used.

It was trained on speech; in singing, compare clips of the same kind with each other.
"""

import importlib.util
import logging
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from modules.audio.io import resample
from modules.audio.mel import mel_filters
from modules.config.audio import AudioSpec
from modules.device import WithoutDrawing
from modules.errors import AudioError, CheckpointError
from modules.pretrained.find import find
from modules.weights.checkpoint import load_weights
from modules.weights.state_dict import fit, tensors_of

logger = logging.getLogger(__name__)

EMBEDDING_SIZE = 256
WEIGHTS_PATH = "pretrain/speaker_encoder/pretrained.pt"

_HINT = "It is not the speaker encoder's file: get pretrained.pt from https://github.com/resemble-ai/Resemblyzer"
_AUDIO = AudioSpec(16000, 400, 160, 400, 40, 0.0, 8000.0)
_WINDOW = 160  # frames, 1.6 s
_STEP = round(_AUDIO.frame_rate / 1.3)  # frames from window to window: 77, so that they overlap by half
_COVERED = 0.75  # of a window that must be sound; a wave that is shorter is filled up with silence
_BATCH = 64  # windows at once: a song has hundreds
_LEVEL_DB = -30.0  # dBFS that quieter waves are raised to
_SILENCE = 1e-5  # RMS, -100 dBFS


class SpeakerEncoder(nn.Module):
    """Embeddings of voices. The names of its parts are those in the file.

    Source: Wan et al., "Generalized End-to-End Loss for Speaker Verification", 2018, arXiv:1710.10467, sections 2.1
    and 2.2 (embedding) and 3.1 (sliding windows).
    """

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_AUDIO.n_mels, EMBEDDING_SIZE, 3, batch_first=True)
        self.linear = nn.Linear(EMBEDDING_SIZE, EMBEDDING_SIZE)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        """Unit vectors (K, 256) of the mel of windows (K, N, 40)."""
        _, (hidden, _) = self.lstm(mel)
        return F.normalize(F.relu(self.linear(hidden[-1])), dim=1)

    @torch.no_grad()
    def embed(self, wav: torch.Tensor | np.ndarray, sampling_rate: int) -> torch.Tensor:
        """(256,) float32 on the CPU, of length 1, or all zero for silence, of `wav` (T,) in [-1, 1].

        A wave quieter than -30 dBFS is raised to that. The level of a louder one is part of the result: 6 dB of
        difference lower the similarity by about 0.03.
        """
        samples = torch.as_tensor(wav).detach().float().cpu().numpy()
        if not np.isfinite(samples).all():
            raise AudioError("the audio holds samples that are not finite; it has no speaker embedding")
        samples = resample(samples, sampling_rate, _AUDIO.sampling_rate)
        rms = math.sqrt(np.square(samples, dtype=np.float64).mean()) if len(samples) else 0.0
        if rms < _SILENCE:
            return torch.zeros(EMBEDDING_SIZE)
        samples = (samples * max(1.0, 10 ** (_LEVEL_DB / 20) / rms)).astype(np.float32)
        windows = _mel_windows(torch.from_numpy(samples).to(self.linear.weight.device))
        partial = torch.cat([self(some) for some in windows.split(_BATCH)])
        return F.normalize(partial.mean(0), dim=0).cpu()

    @staticmethod
    def similarity(a: torch.Tensor, b: torch.Tensor) -> float:
        """Cosine of two embeddings (256,): near 1 for the same voice; 0 where one of them is silence."""
        return float(F.cosine_similarity(a.float(), b.float(), dim=0))


def find_speaker_encoder() -> Path | None:
    """The weights in the workspace, beside the code, or in an installed resemblyzer, which is not imported; or None."""
    folders = getattr(importlib.util.find_spec("resemblyzer"), "submodule_search_locations", None) or ()
    installed = (Path(folder) / "pretrained.pt" for folder in folders)
    return find(WEIGHTS_PATH) or next((path for path in installed if path.is_file()), None)


def load_speaker_encoder(path: Path | str, device: torch.device | str) -> SpeakerEncoder:
    """The encoder with the weights of a file; tensors that it has beside those of this network are ignored."""
    with WithoutDrawing():  # no start values are drawn: the random numbers of a training run stay as they are
        encoder = SpeakerEncoder()
    state = fit(tensors_of(load_weights(path)), encoder.state_dict(), path, _HINT)
    if wrong := [name for name, tensor in state.items() if not tensor.is_floating_point()]:
        raise CheckpointError(f"{path}: {wrong[0]} is {state[wrong[0]].dtype}, expected floating point. {_HINT}")
    # Copies: a file that is mapped into memory may change later.
    encoder.load_state_dict({name: tensor.to(torch.float32, copy=True) for name, tensor in state.items()}, assign=True)
    logger.info("speaker encoder %s on %s", path, device)
    return encoder.eval().requires_grad_(False).to(device)


def _mel_windows(wav: torch.Tensor) -> torch.Tensor:
    """Power mel, not in logarithm, of overlapping windows: (T,) at 16 kHz to (K, 160, 40).

    The first window is always there, each further one only where at least three quarters of it are sound:

        wave     |=================================|        3.2 s
        windows  |--------------|
                        |--------------|
                               |--------------|             the next would be sound for 56 % only
    """
    hop = _AUDIO.hop_length
    spare = len(wav) - int(_COVERED * _WINDOW) * hop
    count = 1 + max(0, spare // (_STEP * hop))
    needed = ((count - 1) * _STEP + _WINDOW) * hop
    padded = F.pad(wav, (0, max(0, needed - len(wav))))
    hann = torch.hann_window(_AUDIO.win_length, device=wav.device)
    spectrum = torch.stft(padded, _AUDIO.n_fft, hop, window=hann, pad_mode="constant", return_complex=True)
    mel = mel_filters(_AUDIO, wav.device) @ spectrum.abs().square()
    return mel.unfold(1, _WINDOW, _STEP)[:, :count].permute(1, 2, 0).contiguous()
