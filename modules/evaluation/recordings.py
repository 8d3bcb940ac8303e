"""What an evaluation reads besides the model: parts of sources, recordings of the target voices, parallel takes."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from modules.audio.io import AUDIO_SUFFIXES, probe, read, read_blocks
from modules.errors import AudioError, UserError
from modules.metrics.speaker import SpeakerEncoder

logger = logging.getLogger(__name__)

CLIPS_PER_SPEAKER = 8
CLIP_SECONDS = 30.0
_SILENT = 0.01  # RMS, -40 dBFS


@dataclass(frozen=True)
class Excerpt:
    """The part of a recording that is evaluated.

    Args:
        wav: (T,) float32, mono.
        rate: Hz.
        start: seconds into the recording.
        is_whole: whether it is all of it.
    """

    wav: np.ndarray
    rate: int
    start: float
    is_whole: bool

    @property
    def seconds(self) -> float:
        """Its duration."""
        return len(self.wav) / self.rate


def read_excerpt(path: Path, max_seconds: float) -> Excerpt:
    """All of a recording, or `max_seconds` from the first second on that is not silent; the rest is not decoded.

    Raises:
        AudioError: the file cannot be used, or is longer and silent throughout.
    """
    info = probe(path)
    if info.seconds <= max_seconds:
        wav, rate = read(path)
        return Excerpt(wav, rate, 0.0, True)
    blocks, start, wanted = [], 0, round(max_seconds * info.rate)
    for block in read_blocks(path, 1.0):
        if not blocks and np.sqrt(np.mean(np.square(block, dtype=np.float64))) < _SILENT:
            start += len(block)
            continue
        blocks.append(block)
        if sum(map(len, blocks)) >= wanted:
            break
    if not blocks:
        raise AudioError(f"{path}: is silent throughout (below -40 dB), there is nothing to convert")
    return Excerpt(np.concatenate(blocks)[:wanted], info.rate, start / info.rate, False)


def find_parallel(folder: Path, speaker: str, source: Path) -> Path | None:
    """The target's own take of a source: the audio file below FOLDER/SPEAKER/ whose name without suffix is the same."""
    takes = [path for path in _audio_below(folder / speaker) if path.stem == source.stem]
    return takes[0] if takes else None


def read_parallel(path: Path, excerpt: Excerpt) -> tuple[np.ndarray, int]:
    """A parallel take as mono (T,) with its rate in Hz: all of it, or the seconds that the excerpt has of its source.

    Raises:
        AudioError: the file cannot be used, or ends before the excerpt begins.
    """
    wav, rate = read(path)
    if not excerpt.is_whole:
        start = round(excerpt.start * rate)
        wav = wav[start : start + round(excerpt.seconds * rate)]
    if not len(wav):
        raise AudioError(f"{path}: ends before {excerpt.start:.0f} s, where the sound of its source begins")
    return wav, rate


def target_voice(folder: Path, speaker: str, encoder: SpeakerEncoder) -> torch.Tensor | None:
    """How a speaker sounds: the mean embedding (256,), of length 1, of up to eight clips spread over FOLDER/SPEAKER/.

    Returns None where there is no clip that can be used; one that cannot is warned about.
    """
    embeddings = []
    for path in spread(_audio_below(folder / speaker), CLIPS_PER_SPEAKER):
        try:
            clip = read_excerpt(path, CLIP_SECONDS)
        except UserError as error:
            logger.warning("%s", error)
            continue
        embedding = encoder.embed(clip.wav, clip.rate)
        if embedding.any():
            embeddings.append(embedding)
    return F.normalize(torch.stack(embeddings).mean(0), dim=0) if embeddings else None


def spread(paths: list[Path], count: int) -> list[Path]:
    """At most `count` of the paths, at equal distances from the first to the last."""
    if len(paths) <= count:
        return paths
    return [paths[round(index * (len(paths) - 1) / (count - 1))] for index in range(count)]


def _audio_below(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*")) if folder.is_dir() else []
    return [path for path in found if path.is_file() and path.suffix.lower() in AUDIO_SUFFIXES and path.name[0] != "."]
