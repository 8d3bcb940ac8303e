"""`*-onnx`: ContentVec and HuBERT-Soft as ONNX graphs, run by onnxruntime (an extra)."""

import numpy as np
import torch
import torch.nn.functional as F

from modules.encoders.base import ENCODERS, SpeechEncoder
from modules.errors import CheckpointError
from modules.pretrained.catalogue import weights_of
from modules.pretrained.find import require
from modules.weights.onnx import open_session

# What the convolutions at the front see at once; shorter clips give no frame.
_RECEPTIVE_FIELD = 400


class OnnxEncoder(SpeechEncoder):
    """An exported encoder: audio (1, 1, T) in, units (1, N', D) out.

    Runs on CUDA where the device is one and onnxruntime was built for it, else on the CPU; the units come back on the
    device that was asked for.

    Raises:
        UsageError: onnxruntime is not installed.
        CheckpointError: not an ONNX file, or its units have another width.
    """

    def __init__(self, device: torch.device | str) -> None:
        super().__init__(device)
        self._path = require(*self.weights)
        self._session = open_session(self._path, self.device, f"speech encoder {self.name}")
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name

    def units(self, wav: torch.Tensor) -> torch.Tensor:
        """The graph's first output, channel-first."""
        audio = F.pad(wav, (0, max(0, _RECEPTIVE_FIELD - len(wav)))).cpu().numpy()
        units = self._session.run([self._output], {self._input: audio[None, None].astype(np.float32)})[0]
        if units.ndim != 3 or units.shape[2] != self.dim:
            raise CheckpointError(
                f"{self._path}: gives {list(units.shape)}, but {self.name} needs [1, frames, {self.dim}]. "
                "It is the graph of another encoder; download the right one."
            )
        return torch.from_numpy(units[0].T.copy()).to(self.device)


def _register(name: str, dim: int, doc: str) -> None:
    ENCODERS.register(name)(
        type(name, (OnnxEncoder,), {"name": name, "dim": dim, "weights": weights_of(name), "__doc__": doc})
    )


_register("vec256l9-onnx", 256, "ContentVec, layer 9, projected.")
_register("vec256l12-onnx", 256, "ContentVec, layer 12, projected.")
_register("vec768l9-onnx", 768, "ContentVec, layer 9.")
_register("vec768l12-onnx", 768, "ContentVec, layer 12.")
_register("hubertsoft-onnx", 256, "HuBERT-Soft.")
