"""Scorers that come with optional packages: transcripts (faster-whisper) and naturalness (speechmos)."""

import importlib.util
import logging
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from modules.audio.io import resample
from modules.errors import AudioError, UsageError
from modules.pretrained.find import find
from modules.text import listing

logger = logging.getLogger(__name__)

WHISPER_FOLDER = "pretrain/faster-whisper"

_RATE = 16000  # Hz, of both
_REASON_LENGTH = 200  # letters of somebody else's message
_WHISPER_FILES = ("model.bin", "config.json", "tokenizer.json")  # without the last the package would download one
_GET_WHISPER = "Get one with: python pretrain/download.py faster-whisper (or name a folder that has one with --whisper)"


class Transcript(NamedTuple):
    """The words of a clip, and their language as a code such as "en"."""

    text: str
    language: str


def find_whisper(given: Path | None = None) -> Path:
    """The folder of a Whisper model for CTranslate2, `given` or pretrain/faster-whisper; nothing is downloaded.

    A UsageError where faster-whisper is not installed, or there is no such model.
    """
    _require("faster-whisper")
    model = find(f"{WHISPER_FOLDER}/model.bin")
    folder = given or (model and model.parent)
    if folder is None:
        raise UsageError(f"there is no Whisper model in {WHISPER_FOLDER}/. {_GET_WHISPER}")
    if missing := ", ".join(name for name in _WHISPER_FILES if not (folder / name).is_file()):
        raise UsageError(f"{folder}: is no folder of a Whisper model for CTranslate2: no {missing}. {_GET_WHISPER}")
    return folder


class Transcriber:
    """Speech recognition by faster-whisper with a model that `find_whisper` found, of one language, or of any (None).

    Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022, arXiv:2212.04356.
    """

    def __init__(self, folder: Path, device: str = "cpu", language: str | None = None) -> None:
        self.language = language
        try:
            from faster_whisper import WhisperModel

            compute = "int8" if device == "cpu" else "default"
            self._network = WhisperModel(str(folder), device=device, compute_type=compute)
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"{folder}: the Whisper model cannot be loaded ({_one_line(error)}). {_GET_WHISPER}"
            ) from None
        if language not in (None, *(known := self._network.supported_languages)):
            raise UsageError(
                f"--language {language}: the model in {folder} has no such language. It has: {listing(known, 99)}"
            )
        logger.info("words are transcribed by Whisper in %s", folder)

    def transcribe(self, wav: np.ndarray, rate: int, language: str | None = None) -> Transcript:
        """The words of a clip (T,) in [-1, 1]; language None: its own, or detected. An AudioError on failure."""
        language = language or self.language
        if not np.any(wav):
            return Transcript("", language or "")
        # Temperature 0: nothing is drawn. Unconditioned: a wrong line does not lead the next ones astray.
        settings = {"language": language, "temperature": 0.0, "condition_on_previous_text": False}
        try:
            segments, info = self._network.transcribe(resample(wav, rate, _RATE), **settings)
            return Transcript(" ".join(segment.text.strip() for segment in segments), info.language)
        except (OSError, RuntimeError, ValueError) as error:
            raise AudioError(f"Whisper cannot transcribe it ({_one_line(error)})") from error


class NaturalnessScorer:
    """How clean and natural a clip would sound to listeners, 1 (bad) to 5: the overall score of DNSMOS P.835.
    It was made for speech: of singing, compare only clips of the same song.

    Source: Reddy et al., "DNSMOS P.835: A Non-Intrusive Perceptual Objective Speech Quality Metric to Evaluate Noise
    Suppressors", 2021, arXiv:2110.01763.
    """

    def __init__(self) -> None:
        _require("speechmos", "onnxruntime", "requests")
        try:
            from speechmos import dnsmos
        except (ImportError, OSError) as error:
            raise UsageError(f"speechmos cannot be loaded ({_one_line(error)})") from None
        self._run = dnsmos.run

    def score(self, wav: np.ndarray, rate: int) -> float:
        """The score of a clip (T,) in [-1, 1]; nan for silence. An AudioError where the networks fail on it."""
        samples = np.clip(resample(wav, rate, _RATE), -1, 1).astype(np.float32)
        if not samples.any():
            return math.nan
        try:
            return float(self._run(samples, _RATE)["ovrl_mos"])
        except (OSError, RuntimeError, ValueError) as error:
            raise AudioError(f"DNSMOS cannot score it ({_one_line(error)})") from error


def _require(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package.replace("-", "_")) is None:
            raise UsageError(f"{package} is not installed: pip install {' '.join(packages)}")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _REASON_LENGTH else text[: _REASON_LENGTH - 3] + "..."
