"""Evaluator: converts every source in every voice, measures the results, and prepares what the page shows of them."""

import logging
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from modules.audio.io import StreamWriter, resample
from modules.contracts import F0
from modules.errors import AudioError, UserError
from modules.evaluation.extras import NaturalnessJudge, Transcriber, Transcript
from modules.evaluation.page import Exhibit, audio_uri, picture_uri
from modules.evaluation.recordings import Excerpt, find_parallel, read_excerpt, read_parallel
from modules.evaluation.table import Row
from modules.inference.batch import result_name
from modules.inference.converter import VoiceConverter
from modules.inference.inputs import Named
from modules.inference.options import ConversionOptions
from modules.metrics.melody import draw_comparison, match_melody
from modules.metrics.signal import CEPSTRUM_AUDIO, mel_cepstral_distance, rmse_cents, word_error_rate
from modules.metrics.speaker import SpeakerEncoder

logger = logging.getLogger(__name__)

AUDIO_FOLDER = "audio"  # in the output folder


@dataclass(frozen=True)
class Judges:
    """Who judges; what is None or absent leaves its measures empty.

    Args:
        encoder: tells voices.
        targets: speaker to the embedding (256,) of the target voice.
        transcriber: hears words.
        naturalness: guesses how listeners would judge.
        parallel: folder with the targets' own takes, SPEAKER/SOURCE.wav.
    """

    encoder: SpeakerEncoder | None = None
    targets: dict[str, torch.Tensor] = field(default_factory=dict)
    transcriber: Transcriber | None = None
    naturalness: NaturalnessJudge | None = None
    parallel: Path | None = None


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Args:
        sources: recordings to convert.
        speakers: target voices.
        output: folder that results are written to.
        predictor: name of the pitch predictor, for the names of results.
        choose_key: semitones for a song's pitch and a speaker.
        max_seconds: of each source.
        with_players: put the sound into the page.
        seed: of the draws of the voice model, the same for every clip.
    """

    sources: list[Named]
    speakers: list[str]
    output: Path
    predictor: str
    choose_key: Callable[[F0, str], int]
    max_seconds: float = 30.0
    with_players: bool = True
    seed: int = 0


@dataclass(frozen=True)
class _Heard:
    """A source, and what the judges say of it alone: `wav` (T,) is at the model's rate."""

    named: Named
    excerpt: Excerpt
    wav: np.ndarray
    curve: F0
    voice: torch.Tensor | None
    words: Transcript | None
    naturalness: float | None
    uri: str


class Evaluator:
    """Evaluates a voice.

    Args:
        converter: the voice; its predictor also hears the results, so that its habits cancel out.
        judges: everybody else who judges.
        plan: the request.
    """

    def __init__(self, converter: VoiceConverter, judges: Judges, plan: Plan) -> None:
        self.converter, self.judges, self.plan = converter, judges, plan
        self.audio = converter.audio
        self.failures: list[str] = []

    def run(self, tell: Callable[[Exhibit], None], progress: bool = True) -> None:
        """Converts and measures; what fails is reported, put into `failures`, and the rest goes on.

        Args:
            tell: is called with every clip as soon as it is measured.
            progress: show a progress bar over clips.
        """
        total = len(self.plan.sources) * len(self.plan.speakers)
        with tqdm(total=total, unit="clip", desc="evaluating", disable=not progress, dynamic_ncols=True) as bar:
            for source in self.plan.sources:
                heard = None
                for speaker in self.plan.speakers:
                    try:
                        heard = heard or self._hear(source)
                        tell(self._evaluate(heard, speaker))
                    except UserError as error:
                        logger.error("%s, %s: %s", source.path, speaker, error)
                        self.failures.append(f"{_shown(source)}, {speaker}: {error}")
                        if heard is None:  # the other speakers cannot sing it either
                            bar.update(len(self.plan.speakers) - 1)
                            break
                    finally:
                        bar.update()

    def _hear(self, source: Named) -> _Heard:
        excerpt = read_excerpt(source.path, self.plan.max_seconds)
        if not excerpt.is_whole:
            logger.info("%s: %.0f s from %.0f s on are evaluated", source.path, excerpt.seconds, excerpt.start)
        wav = resample(excerpt.wav, excerpt.rate, self.audio.sampling_rate)
        return _Heard(
            source,
            excerpt,
            wav,
            self.converter.pipeline.predictor.predict(wav),
            None if self.judges.encoder is None else self.judges.encoder.embed(wav, self.audio.sampling_rate),
            self._transcribe(source.path, wav, None),
            self._judge_naturalness(source.path, wav),
            audio_uri(wav, self.audio.sampling_rate) if self.plan.with_players else "",
        )

    def _evaluate(self, heard: _Heard, speaker: str) -> Exhibit:
        transpose = self.plan.choose_key(heard.curve, speaker)
        options = ConversionOptions(speaker=speaker, transpose=transpose)
        name = f"{AUDIO_FOLDER}/{result_name(heard.named.label, options, self.plan.predictor)}"
        path, rate = self.plan.output / name, self.audio.sampling_rate
        torch.manual_seed(self.plan.seed)
        started = time.perf_counter()
        wav = self.converter.convert_wav(heard.excerpt.wav, heard.excerpt.rate, options)
        elapsed = time.perf_counter() - started
        with StreamWriter(path, rate, options.output_format) as file:
            file.write(wav)
        curve = self.converter.pipeline.predictor.predict(wav)
        values = {
            **self._melody_values(heard, curve, transpose),
            **self._voice_values(heard, wav, speaker),
            "wer": self._word_errors(heard, path, wav),
            "mcd_db": self._cepstral_distance(heard, wav, speaker),
            "dnsmos": self._judge_naturalness(path, wav),
            "dnsmos_source": heard.naturalness,
            "realtime_factor": elapsed / heard.excerpt.seconds,
        }
        row = Row(_shown(heard.named), speaker, name, heard.excerpt.seconds, transpose, values)
        sound = audio_uri(wav, rate) if self.plan.with_players else ""
        return Exhibit(row, heard.uri, sound, self._draw(heard, wav, curve, path))

    def _melody_values(self, heard: _Heard, curve: F0, transpose: int) -> dict[str, float]:
        match = match_melody(heard.curve, curve, self.audio.frame_rate)
        return {
            "f0_correlation": match.correlation,
            "f0_rmse_cents": rmse_cents(heard.curve, curve),
            "f0_offset_cents": 100 * (match.transposition - transpose),
            "voicing_error": 1 - match.voiced_agreement if len(curve.f0) else math.nan,
        }

    def _voice_values(self, heard: _Heard, wav: np.ndarray, speaker: str) -> dict[str, float | None]:
        if self.judges.encoder is None:
            return {}
        voice, target = self.judges.encoder.embed(wav, self.audio.sampling_rate), self.judges.targets.get(speaker)
        return {
            "similarity_target": None if target is None else _similarity(voice, target),
            "similarity_source": _similarity(voice, heard.voice),
        }

    def _word_errors(self, heard: _Heard, path: Path, wav: np.ndarray) -> float | None:
        if heard.words is None:
            return None
        if not heard.words.text:
            return math.nan
        found = self._transcribe(path, wav, heard.words.language)
        return None if found is None else word_error_rate(heard.words.text, found.text)

    def _transcribe(self, path: Path, wav: np.ndarray, language: str | None) -> Transcript | None:
        judge = self.judges.transcriber
        return judge and _attempt(path, lambda: judge.transcribe(wav, self.audio.sampling_rate, language))

    def _judge_naturalness(self, path: Path, wav: np.ndarray) -> float | None:
        judge = self.judges.naturalness
        return judge and _attempt(path, lambda: judge.judge(wav, self.audio.sampling_rate))

    def _cepstral_distance(self, heard: _Heard, wav: np.ndarray, speaker: str) -> float | None:
        if self.judges.parallel is None:
            return None
        path = find_parallel(self.judges.parallel, speaker, heard.named.path)
        take = path and _attempt(path, lambda: read_parallel(path, heard.excerpt))
        if take is None:
            return None
        rate = CEPSTRUM_AUDIO.sampling_rate
        return mel_cepstral_distance(resample(wav, self.audio.sampling_rate, rate), resample(*take, rate))

    def _draw(self, heard: _Heard, wav: np.ndarray, curve: F0, path: Path) -> str:
        """The picture for the page; nothing where a clip is too short for one."""
        title = str(match_melody(heard.curve, curve, self.audio.frame_rate))
        sounds, curves = {"source": heard.wav, "result": wav}, {"source": heard.curve, "result": curve}
        with tempfile.TemporaryDirectory() as folder:
            picture = Path(folder) / "comparison.png"
            if _attempt(path, lambda: draw_comparison(picture, sounds, curves, self.audio, title) or picture) is None:
                return ""
            return picture_uri(picture.read_bytes())


def _shown(source: Named) -> str:
    """The name of a source in the tables, which others may read: of a path outside the workspace only the last part."""
    typed = Path(source.label)
    return source.path.name if typed.is_absolute() or ".." in typed.parts else typed.as_posix()


def _similarity(a: torch.Tensor, b: torch.Tensor) -> float:
    """Cosine of two embeddings; nan where one is that of silence."""
    return SpeakerEncoder.similarity(a, b) if a.any() and b.any() else math.nan


def _attempt(path: Path, function: Callable[[], Any]) -> Any:
    """What a judge says of a clip; None, and a warning, where it cannot tell."""
    try:
        return function()
    except AudioError as error:
        logger.warning("%s: %s", path, error)
        return None
