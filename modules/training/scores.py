"""How good a voice is at an evaluation: what is measured of a clip, and the table `scores.csv` of a run."""

import csv
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from modules.audio.mel import mel_spectrogram
from modules.config.audio import AudioSpec
from modules.contracts import F0, F0Predictor
from modules.errors import UsageError
from modules.files import atomic_path, set_aside
from modules.metrics.speaker import SpeakerEncoder

logger = logging.getLogger(__name__)

COLUMNS = ("step", "epoch", "mel", "f0_cents", "voicing", "similarity", "best")
_CENTS = 1200.0  # per octave
# Digits after the point in the table. Scores are compared as they are written, so that a run that is resumed judges as
# one that was not.
_DIGITS = {"mel": 4, "f0_cents": 1, "voicing": 4, "similarity": 4}


class Scores(NamedTuple):
    """How far a generated clip is from the real one."""

    mel: float  # mean absolute distance of the log mels
    f0_cents: float  # median absolute error of the pitch over the frames voiced in both, nan where there are none
    voicing: float  # share of frames, 0 to 1, that are voiced in only one
    similarity: float | None  # cosine of the speaker embeddings; nan where the real clip is silent, None unmeasured

    def __str__(self) -> str:
        parts = [f"mel {self.mel:.3f}"]
        if not math.isnan(self.f0_cents):
            parts.append(f"pitch off by {self.f0_cents:.0f} cents")
        if not math.isnan(self.voicing):
            parts.append(f"voicing wrong in {100 * self.voicing:.1f} %")
        if self.similarity is not None and not math.isnan(self.similarity):
            parts.append(f"similarity {self.similarity:.2f}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Scorer:
    """Compares generated clips with real ones; the pitch of both is found in the same way."""

    audio: AudioSpec  # rate and mel of the model
    predictor: F0Predictor
    encoder: SpeakerEncoder | None = None  # None leaves the similarity out

    def score(self, generated: torch.Tensor, real: torch.Tensor) -> Scores:
        """Compares a clip of the voice with the recording, (T,) each, in [-1, 1] at audio.sampling_rate; where one is
        longer, its end is left out. With generated samples that are not finite all scores are nan."""
        wanted = self.predictor.predict(real.detach().float().cpu().numpy())
        n_samples = min(len(generated), len(real))
        generated, real = (wav[:n_samples].detach().float().cpu() for wav in (generated, real))
        if not generated.isfinite().all():
            return Scores(math.nan, math.nan, math.nan, None if self.encoder is None else math.nan)
        mel = F.l1_loss(mel_spectrogram(generated, self.audio), mel_spectrogram(real, self.audio))
        f0_cents, voicing = _pitch_errors(self.predictor.predict(generated.numpy()), wanted)
        return Scores(float(mel), f0_cents, voicing, self._similarity(generated, real))

    def _similarity(self, generated: torch.Tensor, real: torch.Tensor) -> float | None:
        if self.encoder is None:
            return None
        voice = self.encoder.embed(real, self.audio.sampling_rate)
        if not voice.any():
            return math.nan
        return self.encoder.similarity(self.encoder.embed(generated, self.audio.sampling_rate), voice)


def _pitch_errors(found: F0, wanted: F0) -> tuple[float, float]:
    """Median pitch error in cents and share of frames with another voicing, over the frames that both curves have."""
    n_frames = min(len(found.f0), len(wanted.f0))
    found_hz, wanted_hz = found.f0[:n_frames], wanted.f0[:n_frames]
    is_found, is_wanted = found.uv[:n_frames] > 0.5, wanted.uv[:n_frames] > 0.5
    both = is_found & is_wanted & (found_hz > 0) & (wanted_hz > 0)
    cents = _CENTS * np.abs(np.log2(found_hz[both] / wanted_hz[both]))
    return float(np.median(cents)) if len(cents) else math.nan, _mean((is_found != is_wanted).tolist())


def mean_scores(scores: list[Scores]) -> Scores:
    """The mean over clips; a clip without a pitch error or a similarity does not count there. Of none: nan and None."""
    similarities = [clip.similarity for clip in scores if clip.similarity is not None]
    return Scores(
        _mean([clip.mel for clip in scores]),
        _mean([clip.f0_cents for clip in scores if not math.isnan(clip.f0_cents)]),
        _mean([clip.voicing for clip in scores]),
        _mean([value for value in similarities if not math.isnan(value)]) if similarities else None,
    )


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan


class ScoreBoard:
    """The evaluations of a run, kept in a CSV file: one row each, ordered by step, "yes" under `best` in one of them.

    The best is the one with the lowest `mel`; of equal ones the first. No table is written before `add`.

    A file that is no table of scores is renamed to `NAME.bak-N` at once. Rows after `step`, where the run goes on, are
    of a run that was given up, and are dropped; if that leaves none, the file is renamed at the first `add`.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        self.path = path
        self._rows: dict[int, tuple[int, Scores]] = {}  # step -> epoch, scores
        self._is_of_another_run = False
        if not path.exists():
            return
        try:
            found = read_table(path)
        except (OSError, ValueError, csv.Error) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            logger.warning("%s is not a table of scores (%s): it is now %s", path, reason, set_aside(path).name)
            return
        self._rows = {at: row for at, row in sorted(found.items()) if at <= step}
        self._is_of_another_run = bool(found) and not self._rows
        if len(found) > len(self._rows):
            logger.info("%s: %d rows after step %d are dropped", path, len(found) - len(self._rows), step)

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and mel distance of the best evaluation; None before the first whose mel distance is a number."""
        valid = [(scores.mel, step) for step, (_, scores) in self._rows.items() if math.isfinite(scores.mel)]
        return min(valid)[::-1] if valid else None

    @property
    def evaluations_since_best(self) -> int:
        """Evaluations after the best one; all of them where there is no best."""
        return sum(self.best is None or step > self.best[0] for step in self._rows)

    def add(self, step: int, epoch: int, scores: Scores) -> bool:
        """Puts an evaluation into the table and the file, in the place of one of the same step; returns whether it is
        the best so far. One without a finite mel distance never is."""
        self._rows[step] = epoch, _from_text(_as_text(scores))
        self._rows = dict(sorted(self._rows.items()))
        try:
            if self._is_of_another_run and self.path.exists():
                logger.warning("%s is of another run: it is now %s", self.path, set_aside(self.path).name)
            self._is_of_another_run = False
            self._write()
        except (OSError, UsageError) as error:  # the next `add` writes this row too
            logger.warning("%s could not be written (%s); close what has it open", self.path, error)
        return self.best is not None and self.best[0] == step

    def _write(self) -> None:
        best = self.best[0] if self.best else None
        with atomic_path(self.path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(COLUMNS)
            for step, (epoch, scores) in self._rows.items():
                table.writerow([step, epoch, *_as_text(scores), "yes" if step == best else ""])


def _as_text(scores: Scores) -> list[str]:
    """One field for each score: 0.5123; "nan" where it could not be measured; nothing without a speaker encoder."""
    values = scores._asdict()
    return ["" if values[name] is None else f"{values[name]:.{digits}f}" for name, digits in _DIGITS.items()]


def _from_text(fields: list[str]) -> Scores:
    """The opposite of `_as_text`; ValueError where a field is not a number."""
    mel, f0_cents, voicing, similarity = fields
    return Scores(float(mel), float(f0_cents), float(voicing), float(similarity) if similarity else None)


def read_table(path: Path) -> dict[int, tuple[int, Scores]]:
    """Step -> epoch and scores; OSError, ValueError or csv.Error where the file is something else. `best` follows."""
    with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets begin a file with a byte order mark
        header, *lines = [line for line in csv.reader(file, strict=True) if line] or [[]]
    if tuple(header) != COLUMNS:
        raise ValueError(f"its first line is not {','.join(COLUMNS)}")
    rows = {}
    for number, line in enumerate(lines, start=2):
        if len(line) != len(COLUMNS):
            raise ValueError(f"line {number} has {len(line)} fields")
        rows[int(line[0])] = int(line[1]), _from_text(line[2:-1])
    return rows
