"""Evaluator: converts every source in every voice and measures the results."""

import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from modules.audio.data_uri import audio_uri, data_uri
from modules.audio.io import AUDIO_SUFFIXES, StreamWriter, probe, read, read_blocks, resample
from modules.contracts import F0, F0Predictor
from modules.errors import AudioError, UserError
from modules.evaluation.extras import NaturalnessScorer, Transcriber, Transcript
from modules.evaluation.report import Row
from modules.inference.converter import VoiceConverter
from modules.inference.inputs import Named
from modules.inference.options import ConversionOptions
from modules.inference.results import result_name
from modules.metrics.melody import draw_comparison, match_melody
from modules.metrics.signal import (
    CEPSTRUM_AUDIO,
    match_level,
    mel_cepstral_distance,
    split_words,
    word_error_rate,
)
from modules.metrics.speaker import SpeakerEncoder
from modules.text import counted

logger = logging.getLogger(__name__)

CLIPS_PER_SPEAKER = 8
CLIP_SECONDS = 30.0
FEWEST_WORDS = 8  # in a source: of fewer, one word more or less decides
_SILENT = 0.01  # RMS, -40 dBFS


@dataclass(frozen=True)
class Scorers:
    """The networks and recordings that results are compared with; what is absent leaves its measures empty."""

    second_predictor: F0Predictor  # so that a verdict does not hang on the octave errors of the voice's own
    encoder: SpeakerEncoder | None
    targets: dict[str, torch.Tensor | None]  # speaker -> embedding (256,) of its recordings
    transcriber: Transcriber | None
    naturalness: NaturalnessScorer | None
    parallel: Path | None  # folder with the targets' own takes, SPEAKER/SOURCE.wav


@dataclass(frozen=True)
class Plan:
    """What is to be evaluated."""

    sources: list[Named]
    speakers: list[str]  # target voices
    output: Path  # folder that results are written to
    predictor: str  # name of the F0 predictor, for the names of results
    choose_key: Callable[[F0, str], int]  # semitones for a song's pitch and a speaker
    noise_scale: float  # of the voice model
    kept_consonants: float  # share of voiceless consonants that comes from the source
    max_seconds: float  # of each source
    with_players: bool  # put the sound into the page


@dataclass(frozen=True)
class Excerpt:
    """The part of a recording that is evaluated."""

    wav: np.ndarray  # (T,) float32, mono
    rate: int  # Hz
    start: float  # seconds into the recording
    is_whole: bool

    @property
    def seconds(self) -> float:
        """Its duration."""
        return len(self.wav) / self.rate


@dataclass(frozen=True)
class _Source:
    """A source with what is measured of it once for all speakers."""

    named: Named
    excerpt: Excerpt
    wav: np.ndarray  # (T,) at the model's rate
    curve: F0
    second_curve: F0  # by the second predictor
    embedding: torch.Tensor | None
    transcript: Transcript | None
    naturalness: float | None
    uri: str


class Evaluator:
    """Evaluates a voice; its F0 predictor reads sources and results alike, so that its errors cancel out.

    `failures` and `notes` are sentences on what failed, and on what could not be measured.
    """

    def __init__(self, converter: VoiceConverter, scorers: Scorers, plan: Plan) -> None:
        self.converter, self.scorers, self.plan = converter, scorers, plan
        self.audio, self.predictor = converter.audio, converter.pipeline.predictor
        self.failures: list[str] = []
        self.notes: list[str] = []

    def run(self) -> Iterator[Row]:
        """Converts and measures; what fails is reported, put into `failures`, and the rest goes on."""
        total = len(self.plan.sources) * len(self.plan.speakers)
        with tqdm(total=total, unit="clip", desc="evaluating", dynamic_ncols=True) as bar:
            for named in self.plan.sources:
                source = None
                for speaker in self.plan.speakers:
                    try:
                        source = source or self._read_source(named)
                        yield self._evaluate(source, speaker)
                    except UserError as error:
                        logger.error("%s, %s: %s", named.path, speaker, error)
                        self.failures.append(f"{_public_name(named)}, {speaker}: {error}")
                        if source is None:  # it fails for the other speakers too
                            bar.update(len(self.plan.speakers) - 1)
                            break
                    finally:
                        bar.update()

    def _read_source(self, named: Named) -> _Source:
        excerpt = read_excerpt(named.path, self.plan.max_seconds)
        if not excerpt.is_whole:
            logger.info("%s: %.0f s from %.0f s on are evaluated", named.path, excerpt.seconds, excerpt.start)
        wav = resample(excerpt.wav, excerpt.rate, self.audio.sampling_rate)
        curve, embedding = self.predictor.predict(wav), self._embed(wav)
        second_curve = self.scorers.second_predictor.predict(wav)
        transcript = self._transcribe(named.path, wav, None)
        if transcript is not None and (n_words := len(split_words(transcript.text))) < FEWEST_WORDS:
            heard = f"{counted(n_words, 'word')} heard in the source, at least {FEWEST_WORDS} are needed"
            self.notes.append(f"wer of {_public_name(named)} is not measured: {heard}")
            logger.info("%s", self.notes[-1])
        scores = transcript, self._naturalness(named.path, wav)
        return _Source(named, excerpt, wav, curve, second_curve, embedding, *scores, self._player(wav))

    def _evaluate(self, source: _Source, speaker: str) -> Row:
        transpose = self.plan.choose_key(source.curve, speaker)
        how = {"noise_scale": self.plan.noise_scale, "kept_consonants": self.plan.kept_consonants}
        options = ConversionOptions(speaker=speaker, transpose=transpose, **how)
        name = f"audio/{result_name(source.named.label, options, self.plan.predictor)}"
        path = self.plan.output / name
        torch.manual_seed(0)  # the voice model's noise is the same for every clip
        started = time.perf_counter()
        wav = self.converter.convert_wav(source.excerpt.wav, source.excerpt.rate, options)
        elapsed = time.perf_counter() - started
        with StreamWriter(path, self.audio.sampling_rate, options.output_format) as file:
            file.write(wav)
        curve = self.predictor.predict(wav)
        melody = match_melody(source.curve, curve, self.audio.frame_rate)
        second_curve = self.scorers.second_predictor.predict(wav)
        second_melody = match_melody(source.second_curve, second_curve, self.audio.frame_rate)
        level_db, level_correlation = match_level(source.wav, wav, self.audio.hop_length)
        embedding, target = self._embed(wav), self.scorers.targets.get(speaker)
        values = {
            "f0_correlation": melody.correlation,
            "f0_correlation_second": second_melody.correlation,
            "f0_rmse_cents": melody.rmse_cents,
            "f0_offset_cents": 100 * (melody.transposition - transpose),
            "false_voicing": melody.false_voicing,
            "false_voicing_second": second_melody.false_voicing,
            "missed_voicing": melody.missed_voicing,
            "missed_voicing_second": second_melody.missed_voicing,
            "level_db": level_db,
            "level_correlation": level_correlation,
            "similarity_target": _similarity(embedding, target),
            "similarity_before": _similarity(source.embedding, target),
            "similarity_source": _similarity(embedding, source.embedding),
            "wer": self._word_error_rate(source, path, wav),
            "mcd_db": self._cepstral_distance(source, wav, speaker),
            "dnsmos": self._naturalness(path, wav),
            "dnsmos_source": source.naturalness,
            "realtime_factor": elapsed / source.excerpt.seconds,
        }
        shown = source.uri, self._player(wav), self._draw(source, wav, curve, str(melody))
        return Row(_public_name(source.named), speaker, name, source.excerpt.seconds, transpose, values, *shown)

    def _embed(self, wav: np.ndarray) -> torch.Tensor | None:
        encoder = self.scorers.encoder
        return None if encoder is None else encoder.embed(wav, self.audio.sampling_rate)

    def _player(self, wav: np.ndarray) -> str:
        return audio_uri(wav, self.audio.sampling_rate) if self.plan.with_players else ""

    def _word_error_rate(self, source: _Source, path: Path, wav: np.ndarray) -> float | None:
        if source.transcript is None:
            return None
        if len(split_words(source.transcript.text)) < FEWEST_WORDS:
            return math.nan
        found = self._transcribe(path, wav, source.transcript.language)
        return None if found is None else word_error_rate(source.transcript.text, found.text)

    def _transcribe(self, path: Path, wav: np.ndarray, language: str | None) -> Transcript | None:
        scorer = self.scorers.transcriber
        return scorer and _attempt(path, lambda: scorer.transcribe(wav, self.audio.sampling_rate, language))

    def _naturalness(self, path: Path, wav: np.ndarray) -> float | None:
        scorer = self.scorers.naturalness
        return scorer and _attempt(path, lambda: scorer.score(wav, self.audio.sampling_rate))

    def _cepstral_distance(self, source: _Source, wav: np.ndarray, speaker: str) -> float | None:
        folder = self.scorers.parallel
        path = folder and find_parallel(folder, speaker, source.named.path)
        take = path and _attempt(path, lambda: read_parallel(path, source.excerpt))
        if take is None:
            return None
        rate = CEPSTRUM_AUDIO.sampling_rate
        return mel_cepstral_distance(resample(wav, self.audio.sampling_rate, rate), resample(*take, rate))

    def _draw(self, source: _Source, wav: np.ndarray, curve: F0, title: str) -> str:
        """The address of the picture for the page; "" where a clip is too short for one."""
        sounds, curves = {"source": source.wav, "result": wav}, {"source": source.curve, "result": curve}
        with tempfile.TemporaryDirectory() as folder:
            picture = Path(folder) / "comparison.png"
            _attempt(source.named.path, lambda: draw_comparison(picture, sounds, curves, self.audio, title))
            return data_uri("image/png", picture.read_bytes()) if picture.is_file() else ""


def read_excerpt(path: Path, max_seconds: float) -> Excerpt:
    """All of a recording, or `max_seconds` from the first second on that is not silent; the rest is not decoded."""
    info = probe(path)
    if info.seconds <= max_seconds:
        wav, rate = read(path)
        return Excerpt(wav, rate, 0.0, True)
    blocks, start, wanted = [], 0, round(max_seconds * info.rate)
    for block in read_blocks(path, 1.0):
        if blocks or np.sqrt(np.mean(np.square(block, dtype=np.float64))) >= _SILENT:
            blocks.append(block)
        else:
            start += len(block)
        if sum(map(len, blocks)) >= wanted:
            break
    if not blocks:
        raise AudioError(f"{path}: is silent throughout (below -40 dB), there is nothing to convert")
    return Excerpt(np.concatenate(blocks)[:wanted], info.rate, start / info.rate, False)


def find_parallel(folder: Path, speaker: str, source: Path) -> Path | None:
    """The target's own take of a source: the audio file below FOLDER/SPEAKER/ whose name without suffix is the same."""
    return next((path for path in audio_below(folder / speaker) if path.stem == source.stem), None)


def read_parallel(path: Path, excerpt: Excerpt) -> tuple[np.ndarray, int]:
    """A parallel take as mono (T,) with its rate in Hz: all, or the seconds that the excerpt has of its source."""
    wav, rate = read(path)
    if not excerpt.is_whole:
        start = round(excerpt.start * rate)
        wav = wav[start : start + round(excerpt.seconds * rate)]
    if not len(wav):
        raise AudioError(f"{path}: ends before {excerpt.start:.0f} s, where the sound of its source begins")
    return wav, rate


def target_embedding(folder: Path, speaker: str, encoder: SpeakerEncoder) -> torch.Tensor | None:
    """The mean embedding (256,), of length 1, of up to eight clips from all over FOLDER/SPEAKER/; None without any."""
    embeddings = []
    for path in evenly_spaced(audio_below(folder / speaker), CLIPS_PER_SPEAKER):
        try:
            clip = read_excerpt(path, CLIP_SECONDS)
            embeddings.append(encoder.embed(clip.wav, clip.rate))
        except UserError as error:
            logger.warning("%s", error)
    embeddings = [embedding for embedding in embeddings if embedding.any()]  # not of silence
    return F.normalize(torch.stack(embeddings).mean(0), dim=0) if embeddings else None


def evenly_spaced(paths: list[Path], limit: int) -> list[Path]:
    """At most `limit` of the paths, at equal distances from the first to the last."""
    if len(paths) <= limit:
        return paths
    return [paths[round(index * (len(paths) - 1) / (limit - 1))] for index in range(limit)]


def audio_below(folder: Path) -> list[Path]:
    """The audio files below a folder, sorted, without hidden ones; none where there is no such folder."""
    found = sorted(folder.rglob("*")) if folder.is_dir() else []
    return [path for path in found if path.is_file() and path.suffix.lower() in AUDIO_SUFFIXES and path.name[0] != "."]


def _public_name(source: Named) -> str:
    """The name of a source in the tables, which others may read: of a path outside the workspace only the last part."""
    typed = Path(source.label)
    return source.path.name if typed.is_absolute() or ".." in typed.parts else typed.as_posix()


def _similarity(a: torch.Tensor | None, b: torch.Tensor | None) -> float | None:
    """Cosine of two embeddings; nan where one is that of silence, None where one is absent."""
    if a is None or b is None:
        return None
    return SpeakerEncoder.similarity(a, b) if a.any() and b.any() else math.nan


def _attempt(path: Path, function: Callable[[], Any]) -> Any | None:
    """What a scorer says of a clip; None, and a warning, where it fails."""
    try:
        return function()
    except AudioError as error:
        logger.warning("%s: %s", path, error)
        return None
