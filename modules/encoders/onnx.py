"""`*-onnx`: ContentVec and HuBERT-Soft as ONNX graphs, run by onnxruntime (an extra)."""

import numpy as np
import torch
import torch.nn.functional as F

from modules.audio.windows import plan_windows
from modules.encoders._networks.hubert import RECEPTIVE_FIELD
from modules.encoders.base import ENCODERS, SpeechEncoder
from modules.encoders.hubert import CONTEXT_FRAMES, WINDOW_FRAMES
from modules.errors import CheckpointError
from modules.pretrained.catalogue import weights_of
from modules.pretrained.find import require
from modules.weights.onnx import open_session


class OnnxEncoder(SpeechEncoder):
    """An exported encoder: audio (1, 1, T) in, units (1, N', D) out, on CUDA where onnxruntime was built for it."""

    def __init__(self, device: torch.device | str) -> None:
        super().__init__(device)
        self._path = require(*self.weights)
        self._session = open_session(self._path, self.device, f"speech encoder {self.name}")

    def units(self, wav: torch.Tensor) -> torch.Tensor:
        """The graph's first output, channel-first; of more than a minute in windows, as `HubertEncoder`."""
        n_frames = len(wav) // self.hop_length
        if n_frames <= WINDOW_FRAMES:
            return self._run(wav)
        parts = []
        for read, keep in plan_windows(n_frames, WINDOW_FRAMES, CONTEXT_FRAMES):
            end = len(wav) if read.stop == n_frames else read.stop * self.hop_length + RECEPTIVE_FIELD
            kept = slice(keep.start, None if read.stop == n_frames else keep.stop)
            parts.append(self._run(wav[read.start * self.hop_length : end])[:, kept])
        return torch.cat(parts, dim=1)

    def _run(self, wav: torch.Tensor) -> torch.Tensor:
        audio = F.pad(wav, (0, max(0, RECEPTIVE_FIELD - len(wav)))).cpu().numpy()
        source, output = self._session.get_inputs()[0].name, self._session.get_outputs()[0].name
        units = self._session.run([output], {source: audio[None, None].astype(np.float32)})[0]
        if units.ndim != 3 or units.shape[2] != self.dim:
            raise CheckpointError(
                f"{self._path}: gives {list(units.shape)}, but {self.name} needs [1, frames, {self.dim}]. "
                "It is the graph of another encoder; download the right one."
            )
        return torch.from_numpy(units[0].T.copy()).to(self.device)


for _name in ("vec256l9-onnx", "vec256l12-onnx", "vec768l9-onnx", "vec768l12-onnx", "hubertsoft-onnx"):
    _dim = 768 if _name.startswith("vec768") else 256
    ENCODERS.register(_name)(type(_name, (OnnxEncoder,), {"name": _name, "dim": _dim, "weights": weights_of(_name)}))
