"""Features that are computed once where one song is converted in many ways: encoders and predictors that remember.

They give what the ones inside give for the same samples, bit for bit, so nothing about a result changes.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from modules.config.audio import AudioSpec
from modules.contracts import F0, F0Predictor, SpeechEncoder
from modules.encoders.base import build_encoder
from modules.errors import DataError
from modules.f0.base import build_predictor

MOST_BYTES = 256 << 20  # of units, and of curves, that are kept: an hour of the former


class _Recent:
    """Results by key; where all together exceed `limit` bytes, those used longest ago go."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._found: OrderedDict[bytes, tuple[Any, int]] = OrderedDict()

    def get(self, key: bytes, make: Callable[[], Any], size_of: Callable[[Any], int]) -> Any:
        if key not in self._found:
            value = make()
            self._found[key] = value, size_of(value)
            self._size += self._found[key][1]
            while self._size > self._limit and len(self._found) > 1:
                self._size -= self._found.popitem(last=False)[1][1]
        self._found.move_to_end(key)
        return self._found[key][0]


class CachedEncoder:
    """A content encoder (`contracts.SpeechEncoder`) that encodes the same clips only once."""

    def __init__(self, inner: SpeechEncoder, limit: int = MOST_BYTES) -> None:
        self.name, self.dim = inner.name, inner.dim
        self.sampling_rate, self.hop_length = inner.sampling_rate, inner.hop_length
        self._inner: SpeechEncoder | None = inner
        self._recent = _Recent(limit)

    def encode(self, wav: np.ndarray) -> torch.Tensor:
        """As `contracts.SpeechEncoder`."""
        return self._units([wav], lambda inner: [inner.encode(wav)])[0]

    def encode_batch(self, wavs: list[np.ndarray]) -> list[torch.Tensor]:
        """As `contracts.SpeechEncoder`; what is remembered is the batch, since rounding depends on all of it."""
        return self._units(wavs, lambda inner: inner.encode_batch(wavs))

    def release(self) -> None:
        """Frees the network; from now on only what is remembered can be had."""
        self._inner = None

    def _units(self, wavs: list[np.ndarray], encode: Callable[[SpeechEncoder], list[torch.Tensor]]) -> Any:
        def make() -> list[torch.Tensor]:
            if self._inner is None:
                raise DataError(f"the units of this audio were not kept, and {self.name} has been unloaded")
            return encode(self._inner)

        def size_of(units: list[torch.Tensor]) -> int:
            return sum(rows.numel() * rows.element_size() for rows in units)

        return self._recent.get(_digest(*wavs), make, size_of)


class CachedPredictor:
    """An F0 predictor (`contracts.F0Predictor`) that listens to the same audio only once."""

    def __init__(self, inner: F0Predictor, limit: int = MOST_BYTES) -> None:
        self._inner, self._recent = inner, _Recent(limit)
        self.name = inner.name

    def predict(self, wav: np.ndarray) -> F0:
        """As `contracts.F0Predictor`."""
        return self._recent.get(_digest(wav), lambda: self._inner.predict(wav), lambda curve: 3 * curve.f0.nbytes)

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest pitch in Hz of the predictor inside."""
        return self._inner.limits


class FeatureCache:
    """Builds each encoder and predictor once, with a memory; its methods stand in for `build_encoder` and
    `build_predictor` where `assemble.load_converter` is called."""

    def __init__(self) -> None:
        self._encoders: dict[tuple, CachedEncoder] = {}
        self._predictors: dict[tuple, CachedPredictor] = {}

    def encoder(self, name: str, device: torch.device | str, dtype: torch.dtype = torch.float32) -> CachedEncoder:
        """As `build_encoder`."""
        key = name, str(device), dtype
        if key not in self._encoders:
            self._encoders[key] = CachedEncoder(build_encoder(name, device, dtype))
        return self._encoders[key]

    def predictor(self, name: str, audio: AudioSpec, **settings: Any) -> CachedPredictor:
        """As `build_predictor`."""
        key = name, audio, repr(sorted(settings.items(), key=lambda item: item[0]))
        if key not in self._predictors:
            self._predictors[key] = CachedPredictor(build_predictor(name, audio, **settings))
        return self._predictors[key]


def _digest(*wavs: np.ndarray) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    for wav in wavs:
        found.update(f"{wav.dtype} {wav.shape};".encode())
        found.update(np.ascontiguousarray(wav).data)
    return found.digest()
