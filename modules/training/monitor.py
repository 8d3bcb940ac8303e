"""What a training of the voice model reports: losses and validation clips for TensorBoard, scores.csv, G_best.pth."""

import logging
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from modules.audio.mel import mel_from_spectrogram, mel_spectrogram
from modules.data.dataset import Batch, Item
from modules.device import seeded
from modules.errors import FAILURES, UserError, reason_of
from modules.files import set_aside
from modules.training.guards import StopRequest
from modules.training.loop import Pace, TrainState
from modules.training.resume import BEST, save_best
from modules.training.scores import ScoreBoard, Scorer, Scores, mean_scores
from modules.training.step import StepReport, VitsStep
from modules.training.tensorboard import Events, curve_picture, mel_picture
from modules.weights.checkpoint import load_weights

logger = logging.getLogger(__name__)

VALIDATION_SECONDS = 15.0  # of each clip; more takes long on a CPU and tells no more


class Preview(Protocol):
    """Songs that are sung at evaluations (`modules/evaluation/preview.py`)."""

    def sing(self, folder: Path, step: int) -> Iterator[tuple[str, np.ndarray]]:
        """Name and sound (T,) of each song, which it writes below a run's folder; what fails is a warning."""


class VoiceMonitor:
    """Logs the steps of a run and evaluates its voice, on the main rank; curves have so-vits-svc's names."""

    def __init__(
        self,
        step: VitsStep,
        state: TrainState,
        folder: Path,
        clips: list[Item],  # for validation
        scorer: Scorer | None = None,  # for scores.csv and G_best.pth; None leaves both out
        card: dict[str, Any] | None = None,  # of G_best.pth
        preview: Preview | None = None,
    ) -> None:
        self.step, self.state, self.folder, self.clips = step, state, folder, clips
        self.scorer, self.card, self.preview = scorer, card, preview
        self.config, self.audio = step.config, step.config.audio

    def __enter__(self) -> "VoiceMonitor":
        self._events = Events(self.folder, self.state.step)
        self._eval = Events(self.folder / "eval", self.state.step)
        if self.scorer is not None:
            self._board = ScoreBoard(self.folder / "scores.csv", self.state.step)
            self._best_is_of_another_run = is_of_another_run(self.folder / BEST, self.state.step)
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()
        self._eval.close()

    def log_step(self, report: StepReport, batch: Batch, rate: float, pace: Pace) -> None:
        """Logs the step just made; `batch` is the last of it, whose first item is drawn."""
        step, losses = self.state.step, {name: float(value) for name, value in report.losses._asdict().items()}
        shown = {name: value for name, value in losses.items() if value != 0 or name not in ("lf0", "stft")}
        shown = " ".join(f"{name} {value:.3f}" for name, value in shown.items())
        logger.info("step %d, epoch %d: %s, lr %.4g, %s", step, self.state.epoch, shown, rate, pace)
        norm_d, norm_g = map(float, report.norms)
        curves = {f"loss/g/{name}": losses[name] for name in ("total", "fm", "mel", "kl", "lf0", "stft")}
        curves |= {"loss/g/adv": losses["gen"], "loss/d/total": losses["disc"], "learning_rate": rate}
        curves |= {"grad_norm_d": norm_d, "grad_norm_g": norm_g}
        curves |= {"speed/steps_per_second": pace.speed, "speed/waiting_for_data": pace.waited}
        for name, value in curves.items():
            self._events.add_scalar(name, value, step)
        mel = mel_from_spectrogram(batch.spec[0, :, : int(batch.lengths[0])], self.audio)
        pictures = {"all/mel": partial(mel_picture, mel)}
        if report.mel_generated is not None:
            pictures["slice/mel_org"] = partial(mel_picture, report.mel_real[0])
            pictures["slice/mel_gen"] = partial(mel_picture, report.mel_generated[0])
        if report.pred_lf0 is not None:
            lf0 = report.lf0[0, 0]
            pictures["all/lf0"] = partial(curve_picture, {"sung": lf0, "predicted": report.pred_lf0[0, 0]})
            pictures["all/norm_lf0"] = partial(curve_picture, {"sung": lf0, "normalised": report.norm_lf0[0, 0]})
        for name, draw in pictures.items():
            self._events.add_picture(name, draw, step)

    @torch.no_grad()
    def validate(self, stop: StopRequest) -> None:
        """Synthesizes the validation clips and scores them; training's random numbers stay untouched."""
        step, distances, scores = self.state.step, [], []
        self.step.voice.eval()
        bar = tqdm(self.clips, "evaluate", unit="clip", leave=False, dynamic_ncols=True, delay=1)
        with seeded(self.step.device, self.config.train.seed), bar:
            for index, item in enumerate(bar):
                if stop.requested:
                    return
                generated, real = self._synthesize(item)
                mels = [mel_spectrogram(wav[: len(real)], self.audio) for wav in (generated, real)]
                distances.append(float(F.l1_loss(*mels)))
                for name, wav, mel in zip(("gen", "gt"), (generated, real), mels):
                    self._eval.add_sound(f"{name}/audio_{index}", wav, step, self.audio.sampling_rate)
                    name = f"{name}/mel_{index}" if index else f"{name}/mel"
                    self._eval.add_picture(name, partial(mel_picture, mel), step)
                if self.scorer is not None:
                    scores.append(self.scorer.score(generated, real))
            if self.preview is not None:
                for name, wav in self.preview.sing(self.folder, step):
                    sound = torch.from_numpy(wav)
                    self._eval.add_sound(f"preview/{name}", sound, step, self.audio.sampling_rate)
                    if stop.requested:
                        return
        if distances:
            self._eval.add_scalar("loss/mel", sum(distances) / len(distances), step)
        if scores:
            self._keep_score(mean_scores(scores), len(scores))
        for events in (self._events, self._eval):
            events.flush()

    def _synthesize(self, item: Item) -> tuple[torch.Tensor, torch.Tensor]:
        """A validation clip in its own voice, at its own pitch, and as it was recorded: (T,) each."""
        n_frames, device = int(VALIDATION_SECONDS * self.audio.frame_rate), self.step.device
        units, f0, uv, volume = (
            None if x is None else x[..., :n_frames][None].to(device)
            for x in (item.units, item.f0, item.uv, item.volume)
        )
        wav, _ = self.step.voice.infer(units, f0, uv, torch.tensor([item.speaker], device=device), vol=volume)
        return wav[0, 0].float().cpu(), item.wav[: n_frames * self.audio.hop_length]

    def _keep_score(self, scores: Scores, n_clips: int) -> None:
        """Writes the scores down, keeps the voice if it is the best so far, and says when there was none for long."""
        step, board, patience = self.state.step, self._board, self.config.train.patience
        for name, value in scores._asdict().items():
            if value is not None and math.isfinite(value):
                self._eval.add_scalar(f"score/{name}", value, step)
        logger.info("step %d: %d validation clips, %s", step, n_clips, scores)
        if self._best_is_of_another_run:
            self._set_aside()
        if board.add(step, self.state.epoch, scores):
            try:
                path = save_best(self.folder, self.state, self.step, self.card)
                logger.info("saved %s: the best score so far", path)
            except FAILURES as error:
                logger.warning("%s", reason_of(error))
        elif patience and board.best and board.evaluations_since_best % patience == 0:
            best_step, mel = board.best
            text = "the score has not improved for %d evaluations: %s holds the best, mel %.3f of step %d. "
            path = self.folder / BEST
            logger.info(text + "More steps may not help", board.evaluations_since_best, path, mel, best_step)

    def _set_aside(self) -> None:
        """Gives other names to the best voice, and the scores, of a run that was ahead of this one and is given up."""
        self._best_is_of_another_run = False
        try:
            kept = [set_aside(path).name for path in (self.folder / BEST, self._board.path) if path.is_file()]
        except UserError as error:
            logger.warning("%s", error)
            return
        text = "%s: %s is of a step that this run has not reached; kept as %s"
        logger.warning(text, self.folder, BEST, " and ".join(kept))


def is_of_another_run(path: Path, step: int) -> bool:
    """Whether a best voice is there that a run which goes on at `step` has not made."""
    if not path.is_file():
        return False
    try:
        found = load_weights(path).get("step")
    except FAILURES:  # what cannot be read is not replaced
        return True
    return not isinstance(found, int) or found > step
