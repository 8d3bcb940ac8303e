"""Preview: songs of the user's own in the voice that is being trained, at each evaluation of it."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modules.audio.io import StreamWriter
from modules.config.schema import Config
from modules.contracts import F0Predictor, SpeechEncoder, Synthesis, Synthesizer
from modules.encoders.base import build_encoder
from modules.errors import FAILURES, reason_of
from modules.evaluation.evaluator import Excerpt, read_excerpt
from modules.f0.base import build_predictor
from modules.inference.auto_transpose import KeyChooser
from modules.inference.converter import VoiceConverter
from modules.inference.features import CachedEncoder, CachedPredictor
from modules.inference.options import ConversionOptions
from modules.inference.pipeline import Pipeline
from modules.inference.stream import Song

logger = logging.getLogger(__name__)

PREDICTOR = "fcpe"  # as the README's walk converts songs
FOLDER = "preview"  # in a run's folder


@dataclass(frozen=True)
class PreviewRequest:
    """What is to be sung at evaluations."""

    songs: tuple[Path, ...]
    seconds: float  # of each song, from where its sound begins
    speaker: str
    transpose: int | str  # semitones, or "auto" or "auto-octave"


class _NoVoice:
    """Sings nothing: so that a first pass through a song finds its features alone."""

    def __init__(self, hop_length: int) -> None:
        self._hop = hop_length

    def infer(self, units: torch.Tensor, f0: torch.Tensor, *_: Any) -> Synthesis:
        return Synthesis(torch.zeros(len(f0) * self._hop), f0)


class Preview:
    """Sings the same seconds again and again; their features are found once, when it is made.

    Raises:
        UserError: when it is made: a song cannot be read, or its key cannot be chosen.
    """

    def __init__(
        self,
        request: PreviewRequest,
        config: Config,
        card: dict[str, Any],
        synthesizer: Synthesizer,  # the voice, whose weights go on changing
        device: torch.device,
        make_encoder: Callable[..., SpeechEncoder] = build_encoder,
        make_predictor: Callable[..., F0Predictor] = build_predictor,
    ) -> None:
        encoder = CachedEncoder(make_encoder(config.model.speech_encoder, device))
        self.rate = config.audio.sampling_rate  # Hz, of what is sung
        pipeline = Pipeline(
            synthesizer=_NoVoice(config.audio.hop_length),
            encoder=encoder,
            predictor=CachedPredictor(make_predictor(PREDICTOR, config.audio, device=device)),
            audio=config.audio,
            speakers=dict(config.spk),
            device=device,
            unit_interpolate_mode=config.data.unit_interpolate_mode,
            with_volume=config.model.vol_embedding,
            card=card,
        )
        self._converter = VoiceConverter(pipeline)
        self._songs: list[tuple[str, Excerpt, ConversionOptions]] = []
        for path in request.songs:
            excerpt = read_excerpt(path, request.seconds)
            options = ConversionOptions(request.speaker, transpose=self._key(request, excerpt), loudness_ratio=0.0)
            self._converter.convert_wav(excerpt.wav, excerpt.rate, options)
            self._songs.append((_free_name(path.stem, [name for name, *_ in self._songs]), excerpt, options))
            logger.info("preview: %.1f s of %s, transposed by %+g", excerpt.seconds, path, options.transpose)
        encoder.release()
        pipeline.synthesizer = synthesizer

    def _key(self, request: PreviewRequest, excerpt: Excerpt) -> int:
        if isinstance(request.transpose, int):
            return request.transpose
        pipeline, voices = self._converter.pipeline, self._converter.voices
        if request.speaker not in voices:
            logger.info("preview: which notes %s sings is not known, so songs keep their key", request.speaker)
            return 0
        chooser = KeyChooser(voices, [request.speaker], Path(), pipeline, ConversionOptions.slice_db)
        song = Song.from_array(excerpt.wav, excerpt.rate, self.rate)
        return chooser.choose_for(song, request.speaker, request.transpose)

    def sing(self, folder: Path, step: int) -> Iterator[tuple[str, np.ndarray]]:
        """Writes each song to FOLDER/preview/STEP.flac (of several STEP_SONG.flac), whole or not at all, and gives its
        name and sound (T,). What fails is a warning."""
        for name, excerpt, options in self._songs:
            path = folder / FOLDER / (f"{step}.flac" if len(self._songs) == 1 else f"{step}_{name}.flac")
            try:
                wav = self._converter.convert_wav(excerpt.wav, excerpt.rate, options)
                with StreamWriter(path, self.rate, "flac") as file:
                    file.write(wav)
            except (*FAILURES, RuntimeError, ValueError) as error:
                logger.warning("no preview of %s at step %d (%s); training goes on", name, step, reason_of(error, path))
                continue
            yield name, wav


def _free_name(stem: str, taken: list[str]) -> str:
    number = sum(name == stem or name.startswith(f"{stem}_") for name in taken) + 1
    return stem if stem not in taken else f"{stem}_{number}"
