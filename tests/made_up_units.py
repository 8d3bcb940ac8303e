"""Made-up data sets of units, and pickles as older versions of numpy wrote them."""

import struct
from pathlib import Path

import numpy as np
import soundfile
import torch

WIDTH = 6


def blobs(n_blobs: int, n_each: int, width: int = WIDTH, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Frames (n_blobs * n_each, D) shuffled around well separated middles (n_blobs, D)."""
    random = np.random.default_rng(seed)
    middles = random.permutation(np.eye(width)[np.arange(n_blobs) % width] * (10 + 10 * np.arange(n_blobs))[:, None])
    frames = np.repeat(middles, n_each, 0) + 0.05 * random.standard_normal((n_blobs * n_each, width))
    return random.permutation(frames).astype(np.float32), middles.astype(np.float32)


def write_units(clip: Path, units: np.ndarray) -> None:
    """Stores units (N, D) of a clip, which is silent, as preprocessing does."""
    clip.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(clip, np.zeros(320 * len(units)), 16000)
    torch.save(torch.from_numpy(units.T.copy())[None], clip.with_name(clip.name + ".soft.pt"))


def write_dataset(root: Path, frames: dict[str, int], width: int = WIDTH, seed: int = 0) -> None:
    """Two clips of made-up units for each speaker, `frames` in all."""
    random = np.random.default_rng(seed)
    for speaker, n in frames.items():
        units = random.standard_normal((n, width)).astype(np.float32)
        write_units(root / speaker / "a.wav", units[: n // 2])
        write_units(root / speaker / "b.wav", units[n // 2 :])


def with_names_of_numpy_1(data: bytes) -> bytes:
    """The same pickle (one frame at most) as numpy 1 would write it, whose modules have other names."""
    renamed = data.replace(b"cnumpy._core.", b"cnumpy.core.")
    for module in (b"multiarray", b"numeric"):
        new, old = b"numpy.core." + module, b"numpy._core." + module
        renamed = renamed.replace(b"\x8c" + bytes([len(old)]) + old, b"\x8c" + bytes([len(new)]) + new)
    if data[2:3] == b"\x95":  # a frame begins with its length
        (length,) = struct.unpack_from("<Q", data, 3)
        renamed = renamed[:3] + struct.pack("<Q", length - len(data) + len(renamed)) + renamed[11:]
    return renamed
