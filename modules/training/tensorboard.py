"""What a run reports: TensorBoard curves, pictures and sounds under upstream's names, and one log line per interval."""

import logging
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from modules.audio.mel import mel_from_spectrogram
from modules.config.audio import AudioSpec
from modules.data.dataset import Batch
from modules.training.scores import Scores
from modules.training.step import StepReport

logger = logging.getLogger(__name__)


class Pace(NamedTuple):
    """Steps per second, and the share of the time spent waiting for data, 0 to 1."""

    speed: float
    waited: float

    def __str__(self) -> str:
        """Both in words."""
        return f"{self.speed:.2f} steps/s, {self.waited:.1%} of it waiting for data"


class TrainingLog:
    """Writes TensorBoard events to a run's folder, those of validation to `eval/` below it.

    Args:
        folder: the run's folder.
        audio: rate and mel of the model.
        step: where the run goes on; what a run that was killed logged after it is hidden.
    """

    def __init__(self, folder: Path, audio: AudioSpec, step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.audio = audio
        first = step + 1 if step else None
        self._train = SummaryWriter(str(folder), purge_step=first)
        self._eval = SummaryWriter(str(folder / "eval"), purge_step=first)

    def close(self) -> None:
        """Flushes both files."""
        self._train.close()
        self._eval.close()

    def step(self, step: int, epoch: int, report: StepReport, rate: float, batch: Batch, pace: Pace) -> None:
        """Logs one step.

        Args:
            step: updates made.
            epoch: from 1.
            report: what the step found.
            rate: learning rate.
            batch: what it was trained on; its first item is drawn.
            pace: how fast it goes.
        """
        losses = {name: float(value) for name, value in report.losses._asdict().items()}
        unused = {name for name in ("lf0", "stft") if losses[name] == 0}
        shown = " ".join(f"{name} {value:.3f}" for name, value in losses.items() if name not in unused)
        logger.info("step %d, epoch %d: %s, lr %.4g, %s", step, epoch, shown, rate, pace)
        scalars = {
            "loss/g/total": losses["total"],
            "loss/d/total": losses["disc"],
            "learning_rate": rate,
            "grad_norm_d": float(report.grad_norm_d),
            "grad_norm_g": float(report.grad_norm_g),
            "loss/g/fm": losses["fm"],
            "loss/g/mel": losses["mel"],
            "loss/g/kl": losses["kl"],
            "loss/g/lf0": losses["lf0"],
            "loss/g/stft": losses["stft"],
            "loss/g/adv": losses["gen"],
            "speed/steps_per_second": pace.speed,
            "speed/waiting_for_data": pace.waited,
        }
        for name, value in scalars.items():
            self._train.add_scalar(name, value, step)
        mel = mel_from_spectrogram(batch.spec[0, :, : int(batch.lengths[0])], self.audio)
        pictures = {
            "slice/mel_org": mel_picture(report.mel_real[0]),
            "slice/mel_gen": mel_picture(report.mel_made[0]),
            "all/mel": mel_picture(mel),
        }
        if _has_lf0(report):
            pictures["all/lf0"] = curve_picture({"sung": report.lf0[0, 0], "predicted": report.pred_lf0[0, 0]})
            pictures["all/norm_lf0"] = curve_picture({"sung": report.lf0[0, 0], "normalised": report.norm_lf0[0, 0]})
        for name, picture in pictures.items():
            self._train.add_image(name, picture, step, dataformats="HWC")

    def validation_clip(self, step: int, index: int, made: torch.Tensor, real: torch.Tensor) -> None:
        """Logs the sound of a validation clip; `made` and `real` are (T,) at the model's rate."""
        for name, wav in (("gen", made), ("gt", real)):
            samples = wav.detach().float().cpu().clamp(-1, 1)
            self._eval.add_audio(f"{name}/audio_{index}", samples[None], step, self.audio.sampling_rate)

    def validation_mel(self, step: int, index: int, made: torch.Tensor, real: torch.Tensor) -> None:
        """Draws the log mels (M, N) of a validation clip."""
        suffix = "" if index == 0 else f"_{index}"
        for name, mel in (("gen", made), ("gt", real)):
            self._eval.add_image(f"{name}/mel{suffix}", mel_picture(mel), step, dataformats="HWC")

    def validation_loss(self, step: int, mel_loss: float) -> None:
        """Logs the mean distance of all validation mels."""
        self._eval.add_scalar("loss/mel", mel_loss, step)
        self._train.flush()
        self._eval.flush()

    def scores(self, step: int, scores: Scores) -> None:
        """Logs the scores of an evaluation, those that could be measured."""
        for name, value in scores._asdict().items():
            if value is not None and math.isfinite(value):
                self._eval.add_scalar(f"score/{name}", value, step)
        self._eval.flush()


def mel_picture(mel: torch.Tensor) -> np.ndarray:
    """A log mel (M, N) in colours, low bands at the bottom: (3 M, 2 N, 3) uint8."""
    from matplotlib import colormaps

    values = np.flipud(mel.detach().float().cpu().numpy())
    low, high = values.min(), values.max()
    shades = (values - low) / max(high - low, 1e-6)
    colours = (colormaps["viridis"](shades)[..., :3] * 255).astype(np.uint8)
    return colours.repeat(3, axis=0).repeat(2, axis=1)


def curve_picture(curves: dict[str, torch.Tensor]) -> np.ndarray:
    """Named curves (N,) over frames in one plot: (200, 800, 3) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    for name, curve in curves.items():
        axes.plot(curve.detach().float().cpu().numpy(), label=name, linewidth=1)
    axes.set_xlabel("frame")
    axes.legend(loc="upper right")
    figure.tight_layout()
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _has_lf0(report: StepReport) -> bool:
    return report.pred_lf0 is not None
