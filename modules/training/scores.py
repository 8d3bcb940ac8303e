"""How good a voice is at an evaluation: what is measured of a clip, and the table `scores.csv` of a run.

Numbers only: which clips are sung, what a better voice leads to and when a run ends are the trainer's business.
"""

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
from modules.contracts import F0Predictor
from modules.errors import UsageError
from modules.files import atomic_path
from modules.metrics.speaker import SpeakerEncoder

logger = logging.getLogger(__name__)

COLUMNS = ("step", "epoch", "mel", "f0_cents", "voicing", "similarity", "best")
_CENTS = 1200.0  # per octave
# Digits after the point in the table. Scores are compared as they are written, so that a run that is resumed judges as
# one that was not.
_DIGITS = {"mel": 4, "f0_cents": 1, "voicing": 4, "similarity": 4}


class Scores(NamedTuple):
    """How far a made clip is from the real one.

    `mel`: mean absolute distance of the log mels. `f0_cents`: median absolute error of the pitch over the frames voiced
    in both, nan where there are none. `voicing`: share of frames, 0 to 1, that are voiced in only one. `similarity`:
    cosine of the speaker embeddings; nan where the real clip is silent, None without a speaker encoder.
    """

    mel: float
    f0_cents: float
    voicing: float
    similarity: float | None


class Best(NamedTuple):
    """The best evaluation of a run: its step and its mel distance."""

    step: int
    mel: float


class _Row(NamedTuple):
    epoch: int
    scores: Scores


def score_clip(
    made: torch.Tensor,
    real: torch.Tensor,
    f0: torch.Tensor,
    uv: torch.Tensor,
    audio: AudioSpec,
    predictor: F0Predictor,
    encoder: SpeakerEncoder | None,
) -> Scores:
    """Compares a clip as the voice sings it with the recording; where one is longer, its end is left out.

    Args:
        made: (T,) in [-1, 1] at audio.sampling_rate; with samples that are not finite all scores are nan.
        real: (T,) likewise.
        f0: (N,) Hz of `real`, best from a predictor of the same kind as `predictor`.
        uv: (N,) of `real`, 1 = voiced.
        audio: rate and mel of the model.
        predictor: finds the pitch of `made`.
        encoder: tells voices; None leaves the similarity out.

    Raises:
        AudioError: the clips are too short for a spectrum.
    """
    n_samples = min(len(made), len(real))
    made, real = (wav[:n_samples].detach().float().cpu() for wav in (made, real))
    if not made.isfinite().all():
        return Scores(math.nan, math.nan, math.nan, None if encoder is None else math.nan)
    mel = F.l1_loss(mel_spectrogram(made, audio), mel_spectrogram(real, audio))
    f0_cents, voicing = _pitch_errors(made, f0, uv, predictor)
    similarity = None
    if encoder is not None:
        voice = encoder.embed(real, audio.sampling_rate)
        is_silent = not voice.any()
        similarity = math.nan if is_silent else encoder.similarity(encoder.embed(made, audio.sampling_rate), voice)
    return Scores(float(mel), f0_cents, voicing, similarity)


@dataclass(frozen=True)
class Judge:
    """Scores clips with one ear: the pitch of both, the made one and the real one, is found in the same way.

    Args:
        audio: rate and mel of the model.
        predictor: finds pitch.
        encoder: tells voices; None leaves the similarity out.
    """

    audio: AudioSpec
    predictor: F0Predictor
    encoder: SpeakerEncoder | None = None

    def score(self, made: torch.Tensor, real: torch.Tensor) -> Scores:
        """Compares a clip as the voice sings it with the recording, both (T,); errors as `score_clip`."""
        curve = self.predictor.predict(real.float().cpu().numpy())
        f0, uv = torch.from_numpy(curve.f0), torch.from_numpy(curve.uv)
        return score_clip(made, real, f0, uv, self.audio, self.predictor, self.encoder)


def mean_scores(scores: list[Scores]) -> Scores:
    """The mean over clips; a clip without a pitch error or a similarity does not count there. Of none: nan and None."""
    similarities = [clip.similarity for clip in scores if clip.similarity is not None]
    return Scores(
        _mean([clip.mel for clip in scores]),
        _mean([clip.f0_cents for clip in scores if not math.isnan(clip.f0_cents)]),
        _mean([clip.voicing for clip in scores]),
        _mean([value for value in similarities if not math.isnan(value)]) if similarities else None,
    )


def describe(scores: Scores) -> str:
    """For a log: "mel 0.512, pitch off by 14 cents, voicing wrong in 3.2 %, similarity 0.81", less what is unknown."""
    parts = [f"mel {scores.mel:.3f}"]
    if not math.isnan(scores.f0_cents):
        parts.append(f"pitch off by {scores.f0_cents:.0f} cents")
    if not math.isnan(scores.voicing):
        parts.append(f"voicing wrong in {100 * scores.voicing:.1f} %")
    if scores.similarity is not None and not math.isnan(scores.similarity):
        parts.append(f"similarity {scores.similarity:.2f}")
    return ", ".join(parts)


class ScoreBoard:
    """The evaluations of a run, kept in a CSV file: one row each, ordered by step, "yes" under `best` in one of them.

    The best is the one with the lowest `mel`; of equal ones the first. No table is written before `add`.

    Args:
        path: of the file; it need not be there. One that is no table of scores is renamed to `NAME.bak-N` at once.
        step: where the run goes on; later rows are of a run that was given up, and are dropped. If that leaves none,
            the file is renamed likewise, at the first `add`.

    Raises:
        UsageError: a file that is no table of scores may not be renamed.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        self.path = path
        self._rows: dict[int, _Row] = {}
        self._is_of_another_run = False
        if not path.exists():
            return
        try:
            found = _read_table(path)
        except (OSError, ValueError, csv.Error) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            logger.warning("%s is not a table of scores (%s): it is now %s", path, reason, _set_aside(path))
            return
        self._rows = {at: row for at, row in sorted(found.items()) if at <= step}
        self._is_of_another_run = bool(found) and not self._rows
        if len(found) > len(self._rows):
            logger.info("%s: %d rows after step %d are dropped", path, len(found) - len(self._rows), step)

    @property
    def best(self) -> Best | None:
        """The best evaluation; None before the first whose mel distance is a number."""
        valid = [Best(step, row.scores.mel) for step, row in self._rows.items() if math.isfinite(row.scores.mel)]
        return min(valid, key=lambda found: (found.mel, found.step), default=None)

    @property
    def evaluations_since_best(self) -> int:
        """Evaluations after the best one; all of them where there is no best."""
        best = self.best
        return len(self._rows) if best is None else sum(step > best.step for step in self._rows)

    def add(self, step: int, epoch: int, scores: Scores) -> bool:
        """Puts an evaluation into the table and the file; one of the same step is replaced.

        A file that cannot be written, such as one that a spreadsheet has open, is warned about: the next `add` writes
        this row too.

        Returns:
            Whether it is the best so far. One without a finite mel distance never is.
        """
        self._rows[step] = _Row(epoch, _rounded(scores))
        self._rows = dict(sorted(self._rows.items()))
        try:
            if self._is_of_another_run and self.path.exists():
                logger.warning("%s is of another run: it is now %s", self.path, _set_aside(self.path))
            self._is_of_another_run = False
            self._write()
        except (OSError, UsageError) as error:
            logger.warning("%s could not be written (%s); close what has it open", self.path, error)
        best = self.best
        return best is not None and best.step == step

    def _write(self) -> None:
        best = self.best
        with atomic_path(self.path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(COLUMNS)
            for step, row in self._rows.items():
                is_best = best is not None and best.step == step
                table.writerow([step, row.epoch, *_as_text(row.scores), "yes" if is_best else ""])


def _pitch_errors(
    made: torch.Tensor, f0: torch.Tensor, uv: torch.Tensor, predictor: F0Predictor
) -> tuple[float, float]:
    """Median pitch error in cents and share of frames with another voicing, over the frames that both curves have."""
    found = predictor.predict(made.numpy())
    n_frames = min(len(found.f0), len(f0))
    wanted_hz, wanted_uv = (curve[:n_frames].detach().float().cpu().numpy() for curve in (f0, uv))
    found_hz, is_found = found.f0[:n_frames], found.uv[:n_frames] > 0.5
    is_wanted = wanted_uv > 0.5
    both = is_found & is_wanted & (found_hz > 0) & (wanted_hz > 0)
    cents = _CENTS * np.abs(np.log2(found_hz[both] / wanted_hz[both]))
    return float(np.median(cents)) if len(cents) else math.nan, _mean((is_found != is_wanted).tolist())


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _rounded(scores: Scores) -> Scores:
    """The scores as the table has them."""
    return _from_text(_as_text(scores))


def _as_text(scores: Scores) -> list[str]:
    """One field for each score: 0.5123; "nan" where it could not be measured; nothing without a speaker encoder."""
    values = scores._asdict()
    return ["" if values[name] is None else f"{values[name]:.{digits}f}" for name, digits in _DIGITS.items()]


def _from_text(fields: list[str]) -> Scores:
    """The opposite of `_as_text`; ValueError where a field is not a number."""
    mel, f0_cents, voicing, similarity = fields
    return Scores(float(mel), float(f0_cents), float(voicing), float(similarity) if similarity else None)


def _read_table(path: Path) -> dict[int, _Row]:
    """Step -> row; OSError, ValueError or csv.Error where the file is something else. `best` follows from the rest."""
    with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets begin a file with a byte order mark
        header, *lines = [line for line in csv.reader(file, strict=True) if line] or [[]]
    if tuple(header) != COLUMNS:
        raise ValueError(f"its first line is not {','.join(COLUMNS)}")
    rows = {}
    for number, line in enumerate(lines, start=2):
        if len(line) != len(COLUMNS):
            raise ValueError(f"line {number} has {len(line)} fields")
        rows[int(line[0])] = _Row(int(line[1]), _from_text(line[2:-1]))
    return rows


def _set_aside(path: Path) -> str:
    """Renames a file to the next free `NAME.bak-N`; returns that name.

    Raises:
        UsageError: it may not be renamed.
    """
    number = 1
    while (backup := path.with_name(f"{path.name}.bak-{number}")).exists():
        number += 1
    try:
        return path.rename(backup).name
    except OSError as error:
        raise UsageError(f"{path}: cannot be set aside as {backup.name} ({error.strerror}); move it away") from None
