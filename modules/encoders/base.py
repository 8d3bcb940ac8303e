"""ENCODERS, and what all content encoders share: input checks, 16 kHz, 50 frames a second."""

import logging
from abc import ABC, abstractmethod
from weakref import WeakValueDictionary

import numpy as np
import torch

from modules.errors import AudioError
from modules.pretrained.find import Weights, checksum, require
from modules.registry import Registry

logger = logging.getLogger(__name__)


class SpeechEncoder(ABC):
    """Speech to content units; a subclass names itself, its width and its files, and has one method, `units`."""

    name = ""
    dim = 0
    sampling_rate = 16000
    hop_length = 320
    weights: tuple[Weights, ...] = ()  # files that serve equally well, best first

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)

    def encode(self, wav: np.ndarray) -> torch.Tensor:
        """Content units of `wav` (T,) in [-1, 1] at 16 kHz, which stays as it is.

        (D, N') float32 on the encoder's device, N' near T / 320 and at least 1 for audio of any length above 0; an
        AudioError where a sample is not finite.
        """
        return self.encode_batch([wav])[0]

    def encode_batch(self, wavs: list[np.ndarray]) -> list[torch.Tensor]:
        """Content units of several clips, the same as of each alone to 1e-4; errors as `encode`."""
        audio = [_checked(wav) for wav in wavs]
        with torch.inference_mode():
            clips = [torch.from_numpy(wav.copy()).to(self.device) for wav in audio if len(wav)]
            found = iter(self.units_batch(clips))
            units = [next(found) if len(wav) else torch.zeros(self.dim, 0, device=self.device) for wav in audio]
        # Normal tensors: inference tensors may not enter training.
        return [rows.float().clone() for rows in units]

    def units_batch(self, wavs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Units (D, N') of each `wav` (T,), T > 0; here one by one, together where an encoder's network can."""
        return [self.units(wav) for wav in wavs]

    def for_stream(self) -> "SpeechEncoder":
        """An encoder of the same weights for windows of a stream, whose last 0.1 s nobody listens to; itself where that
        saves nothing."""
        return self

    def lower(self, dtype: torch.dtype) -> None:
        """Multiplies matrices in `dtype` from now on; units, norms and sums stay fp32. Graphs change nothing."""
        logger.debug("%s stays in fp32", self.name)

    @abstractmethod
    def units(self, wav: torch.Tensor) -> torch.Tensor:
        """Units (D, N') of `wav` (T,), T > 0, on the encoder's device."""


def _checked(wav: np.ndarray) -> np.ndarray:
    wav = np.asarray(wav, dtype=np.float32)
    if wav.ndim != 1:
        raise ValueError(f"an encoder takes one channel (T,), not {wav.shape}")
    if not np.isfinite(wav).all():
        raise AudioError("the audio holds samples that are not finite; repair the file")
    return wav


ENCODERS: Registry[type[SpeechEncoder]] = Registry("speech encoder", "modules.encoders")


# By class, device and file; an encoder stays as long as somebody holds it. The voices of a server share one.
_LOADED: WeakValueDictionary[tuple, SpeechEncoder] = WeakValueDictionary()


def build_encoder(name: str, device: torch.device | str, dtype: torch.dtype = torch.float32) -> SpeechEncoder:
    """The encoder of that name, whose matrices are multiplied in `dtype`: one of the same file on the same device that
    is in use already, or else a new one."""
    kind = ENCODERS.get(name)
    if not kind.weights:
        return kind(device)
    stat = (path := require(*kind.weights)).stat()
    key = kind, torch.device(device), dtype, path, stat.st_size, stat.st_mtime_ns
    encoder = _LOADED.get(key)
    if encoder is None:
        encoder = kind(device)
        if dtype != torch.float32:
            encoder.lower(dtype)
        _LOADED[key] = encoder
    return encoder


def encoder_dim(name: str) -> int:
    """Width D of an encoder's units; needs none of its files."""
    return ENCODERS.get(name).dim


def encoder_identity(name: str) -> str:
    """What units depend on besides the audio: the encoder's name and the SHA-256 of its weights."""
    return f"{name}:{checksum(*ENCODERS.get(name).weights)}"
