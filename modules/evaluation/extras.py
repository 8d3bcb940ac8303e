"""Scorers that come with optional packages: transcripts (faster-whisper) and naturalness (speechmos).

Where one cannot work, `why_missing` gives the reason in one sentence; nothing of its package is imported before.
"""

import importlib.util
import logging
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modules.audio.io import resample
from modules.errors import AudioError

logger = logging.getLogger(__name__)

_RATE = 16000  # Hz, of both
_REASON_LENGTH = 200  # letters of somebody else's message


class Transcript(NamedTuple):
    """The words of a clip, and their language as a code such as "en"."""

    text: str
    language: str


class Transcriber:
    """Speech recognition by the Whisper models of faster-whisper.

    Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022, arXiv:2212.04356.

    Args:
        model: name of a Whisper model ("tiny", "small", "large-v3"), which is fetched from huggingface.co when it is
            first used, or a folder that holds one for CTranslate2.
        device: "cpu" or "cuda".
    """

    def __init__(self, model: str = "small", device: str = "cpu") -> None:
        self.model, self.device = model, device
        self._network: Any = None

    def why_missing(self) -> str | None:
        """What to do before it can work; None where it is ready. Loads the model."""
        if self._network is not None:
            return None
        if not _is_installed("faster_whisper"):
            return "faster-whisper is not installed: pip install -r requirements-extras.txt"
        try:
            from faster_whisper import WhisperModel

            compute = "int8" if self.device == "cpu" else "default"
            self._network = WhisperModel(self.model, device=self.device, compute_type=compute)
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            where = "in that folder" if Path(self.model).is_dir() else "from huggingface.co"
            return f"the Whisper model {self.model!r} cannot be loaded {where} ({_one_line(error)})"
        logger.info("words are transcribed by Whisper %s", self.model)
        return None

    def transcribe(self, wav: np.ndarray, rate: int, language: str | None = None) -> Transcript:
        """The words of a clip (T,) in [-1, 1], always the same for the same clip; language None is detected.

        Raises:
            AudioError: the model fails on this clip.
        """
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

    It was made for speech that a noise suppressor has cleaned: of singing, compare only clips of the same song.

    Source: Reddy et al., "DNSMOS P.835: A Non-Intrusive Perceptual Objective Speech Quality Metric to Evaluate Noise
    Suppressors", 2021, arXiv:2110.01763.
    """

    def __init__(self) -> None:
        self._run: Any = None

    def why_missing(self) -> str | None:
        """What to do before it can work; None where it is ready."""
        if self._run is not None:
            return None
        for package in ("speechmos", "onnxruntime", "requests"):
            if not _is_installed(package):
                return f"{package} is not installed: pip install -r requirements-extras.txt"
        try:
            from speechmos import dnsmos
        except (ImportError, OSError) as error:
            return f"speechmos cannot be loaded ({_one_line(error)})"
        self._run = dnsmos.run
        return None

    def score(self, wav: np.ndarray, rate: int) -> float:
        """The score of a clip (T,) in [-1, 1], 1 to 5; nan for silence. Less than 9 s are repeated up to that.

        Raises:
            AudioError: the networks fail on this clip.
        """
        samples = np.clip(resample(wav, rate, _RATE), -1, 1).astype(np.float32)
        if not samples.any():
            return math.nan
        try:
            return float(self._run(samples, _RATE)["ovrl_mos"])
        except (OSError, RuntimeError, ValueError) as error:
            raise AudioError(f"DNSMOS cannot score it ({_one_line(error)})") from error


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _REASON_LENGTH else text[: _REASON_LENGTH - 3] + "..."
