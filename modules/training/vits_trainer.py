"""Training of the voice model: its step, checkpoints and validation in the loop of `trainer.py`.

It receives finished networks; which ones they are is the script's business.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from modules.audio.mel import mel_spectrogram
from modules.config.audio import AudioSpec
from modules.config.schema import Config
from modules.data.dataset import Batch, Item
from modules.device import seeded
from modules.errors import CheckpointError
from modules.training.distributed import Group
from modules.training.guards import StopRequest
from modules.training.resume import Start, load_start, save_best, save_state
from modules.training.scores import Judge, ScoreBoard, Scores, describe, mean_scores
from modules.training.sharing import together
from modules.training.step import StepReport, VitsStep, learning_rate
from modules.training.tensorboard import Pace, TrainingLog
from modules.training.trainer import Remedies, Rhythm, Trainer
from modules.weights.card import CARD_KEY

logger = logging.getLogger(__name__)

VALIDATION_SECONDS = 15.0  # of each clip; more takes long on a CPU and tells no more


class VitsTrainer(Trainer):
    """Trains the voice model in a folder of its own.

    Args:
        net_g: the voice model, on the group's device; it needs `forward` and `infer` of `SynthesizerTrn`.
        net_d: the discriminators, there too.
        config: the run's configuration.
        group: the ranks that train together, and where this one trains.
        folder: for checkpoints and logs; what it holds already decides where the run starts.
        show_progress: draw a progress bar.
        judge: scores the voice at each validation, for scores.csv and G_best.pth; None leaves both out.

    Attributes:
        card: what the voice says about itself, in every G_STEP.pth, with the steps of that one; empty at first.
    """

    def __init__(
        self,
        net_g: nn.Module,
        net_d: nn.Module,
        config: Config,
        group: Group,
        folder: Path,
        show_progress: bool = True,
        judge: Judge | None = None,
    ) -> None:
        train = config.train
        memory = f"Lower train.batch_size (it is {train.batch_size}) or train.segment_size"
        remedies = Remedies("lower train.learning_rate, or set train.fp16_run to false", memory)
        rhythm = Rhythm(train.log_interval, train.eval_interval, train.epochs)
        super().__init__(rhythm, remedies, group, folder, show_progress, train.accumulate)
        self.config = config
        self.step = VitsStep(net_g, net_d, config, group.device, group)
        self.card: dict[str, Any] = {}
        self.judge = judge
        self._board: ScoreBoard | None = None

    def start(self, base: Path | None = None) -> Start:
        """Goes to where the folder's checkpoints say: on from the newest pair, or from a base model, or from nothing.

        Args:
            base: a folder to take the base model from, where the run's own has none.

        Raises:
            CheckpointError: a checkpoint is damaged or does not fit the config.
        """
        with together(self.group):
            state, start = load_start(self.folder, self.step, self.config, self.group, base)
        self.continue_from(state, start.g if start.step else None)
        return start

    def networks(self) -> list[nn.Module]:
        """Generator and discriminators."""
        return [self.step.net_g, self.step.net_d]

    def learning_rate(self) -> float:
        """The rate of the current epoch."""
        rate = learning_rate(self.config, self.state.epoch)
        self.step.set_learning_rate(rate)
        return rate

    def advance(self, batches: list[Batch]) -> StepReport:
        """Updates both networks once."""
        self.step.begin(self.state.step, self.state.has_base)
        return self.step.run(batches)

    def write_checkpoint(self, random_states: list[dict[str, torch.Tensor]]) -> Path:
        """Writes G_STEP.pth and D_STEP.pth."""
        return save_state(self.folder, self.state, self.step, self.config, random_states, self._papers())[0]

    def open_log(self) -> TrainingLog:
        """TensorBoard events in the run's folder, and the scores so far."""
        if self.judge is not None:
            self._board = ScoreBoard(self.folder / "scores.csv", self.state.step)
        return TrainingLog(self.folder, self.config.audio, self.state.step)

    def log_step(self, log: TrainingLog, report: StepReport, batch: Batch, rate: float, pace: Pace) -> None:
        """Logs losses, norms and pictures."""
        log.step(self.state.step, self.state.epoch, report, rate, batch, pace)

    def describe(self, report: StepReport) -> str:
        """The losses that tell most."""
        losses = report.losses
        return " ".join(f"{name} {float(getattr(losses, name)):.2f}" for name in ("disc", "gen", "fm", "mel", "kl"))

    @torch.no_grad()
    def validate(self, validation: list[Item], stop: StopRequest, log: TrainingLog) -> None:
        """Sings the validation clips and scores them; training's random numbers stay untouched."""
        audio, step = self.config.audio, self.state.step
        self.step.voice.eval()
        distances, scores = [], []
        with seeded(self.device, self.config.train.seed):
            for index, item in enumerate(validation):
                if stop.requested:
                    return
                made, real = self._sing(item).float().cpu(), item.wav[: _validation_samples(audio)]
                log.validation_clip(step, index, made, real)
                mels = [mel_spectrogram(wav[: len(real)], audio) for wav in (made, real)]
                log.validation_mel(step, index, *mels)
                distances.append(float(F.l1_loss(*mels)))
                if self.judge is not None:
                    scores.append(self.judge.score(made, real))
        if not distances:
            return
        log.validation_loss(step, sum(distances) / len(distances))
        if scores:
            self._keep_score(mean_scores(scores), len(scores), log)

    def _keep_score(self, scores: Scores, n_clips: int, log: TrainingLog) -> None:
        """Writes the scores down, keeps the voice if it is the best so far, and says when there was none for long."""
        step, board, patience = self.state.step, self._board, self.config.train.patience
        log.scores(step, scores)
        logger.info("step %d: %d validation clips, %s", step, n_clips, describe(scores))
        if board.add(step, self.state.epoch, scores):
            try:
                path = save_best(self.folder, self.state, self.step, self.config, self._papers())
                logger.info("saved %s: the best score so far", path)
            except CheckpointError as error:
                logger.warning("%s", error)
        elif patience and board.best and board.evaluations_since_best % patience == 0:
            logger.info(
                "the score has not improved for %d evaluations: %s holds the best, mel %.3f of step %d. More steps may "
                "not help",
                board.evaluations_since_best,
                self.folder / "G_best.pth",
                board.best.mel,
                board.best.step,
            )

    def _papers(self) -> dict[str, Any]:
        return {CARD_KEY: {**self.card, "steps": self.state.step}} if self.card else {}

    def _sing(self, item: Item) -> torch.Tensor:
        """A validation clip (T,) in its own voice, at its own pitch."""
        n_frames = _validation_samples(self.config.audio) // self.config.audio.hop_length
        units, f0, uv, volume = (
            None if x is None else x[..., :n_frames][None].to(self.device)
            for x in (item.units, item.f0, item.uv, item.volume)
        )
        speaker = torch.tensor([item.speaker], device=self.device)
        wav, _ = self.step.voice.infer(units, f0, uv, speaker, vol=volume)
        return wav[0, 0]


def _validation_samples(audio: AudioSpec) -> int:
    return int(VALIDATION_SECONDS * audio.frame_rate) * audio.hop_length
