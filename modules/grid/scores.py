"""What is measured of each cell, to stand beside the votes: melody, level, and likeness and words where that can be."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modules.audio.io import load
from modules.config.audio import AudioSpec
from modules.contracts import F0, F0Predictor
from modules.errors import AudioError, UsageError
from modules.evaluation.evaluator import target_embedding
from modules.evaluation.extras import Transcriber, Transcript, find_whisper
from modules.f0.base import build_predictor
from modules.metrics.melody import match_melody
from modules.metrics.signal import match_level, word_error_rate
from modules.metrics.speaker import SpeakerEncoder, find_speaker_encoder, load_speaker_encoder

logger = logging.getLogger(__name__)

PREDICTOR = "fcpe"  # hears every song and every cell, as in compare.py
TARGETS = Path("dataset/44k")
AUDIO = AudioSpec(44100, 2048, 512, 2048, 80, 0.0, 22050.0)
MEASURES = {  # name in grid.json -> title, digits after the point
    "melody": ("log-F0 correlation", 3),
    "cents": ("pitch error, cents", 0),
    "level_db": ("level, dB", 1),
    "similarity": ("similarity", 3),
    "wer": ("word errors", 2),
}


class _Source(NamedTuple):
    wav: np.ndarray  # (T,) at AUDIO.sampling_rate
    curve: F0
    transcript: Transcript | None


class CellScorer:
    """Measures cells against their songs; what a song gives is found once."""

    def __init__(
        self, predictor: F0Predictor, encoder: SpeakerEncoder | None = None, transcriber: Transcriber | None = None
    ) -> None:
        self.predictor, self.encoder, self.transcriber = predictor, encoder, transcriber
        self._sources: dict[Path, _Source] = {}
        self._targets: dict[str, Any] = {}  # speaker -> embedding

    def score(self, source: Path, result: Path, speaker: str) -> dict[str, float | None]:
        """The numbers of `MEASURES` for a cell's file; None for what cannot be measured here."""
        rate = AUDIO.sampling_rate
        if source not in self._sources:
            wav = load(source, rate)
            self._sources[source] = _Source(wav, self.predictor.predict(wav), self._transcribe(wav, None))
        song, wav = self._sources[source], load(result, rate)
        melody = match_melody(song.curve, self.predictor.predict(wav), AUDIO.frame_rate)
        values = {
            "melody": melody.correlation,
            "cents": melody.cents,
            "level_db": match_level(song.wav, wav, AUDIO.hop_length)[0],
            "similarity": self._similarity(wav, speaker),
            "wer": None,
        }
        if song.transcript is not None and (heard := self._transcribe(wav, song.transcript.language)) is not None:
            values["wer"] = word_error_rate(song.transcript.text, heard.text)
        return {name: value if value is not None and math.isfinite(value) else None for name, value in values.items()}

    def _similarity(self, wav: np.ndarray, speaker: str) -> float | None:
        """To the speaker's clips in dataset/44k/, where there are any."""
        if self.encoder is None:
            return None
        if speaker not in self._targets:
            self._targets[speaker] = target_embedding(TARGETS, speaker, self.encoder)
        target = self._targets[speaker]
        return None if target is None else self.encoder.similarity(self.encoder.embed(wav, AUDIO.sampling_rate), target)

    def _transcribe(self, wav: np.ndarray, language: str | None) -> Transcript | None:
        try:
            return self.transcriber and self.transcriber.transcribe(wav, AUDIO.sampling_rate, language)
        except AudioError as error:
            logger.warning("%s", error)
            return None


def load_scorer(device: str, make_predictor: Callable[..., F0Predictor] = build_predictor) -> CellScorer:
    """The scorer with all that is installed here."""
    path, transcriber = find_speaker_encoder(), None
    try:
        transcriber = Transcriber(find_whisper(), "cuda" if device.startswith("cuda") else "cpu")
    except UsageError as error:
        logger.debug("no word errors: %s", error)
    encoder = None if path is None else load_speaker_encoder(path, "cpu")
    return CellScorer(make_predictor(PREDICTOR, AUDIO, device=device), encoder, transcriber)
