"""TensorBoard events of a run: curves, pictures and sounds. Nothing that fails here ends a training."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modules.errors import reason_of

logger = logging.getLogger(__name__)


class Events:
    """What a run that goes on at `step` tells TensorBoard; what a run that was killed told after it is hidden.

    Where TensorBoard fails (a full disk, a package that cannot be imported), one warning says so, and no more is told.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._folder, self._writer = folder, None
        _quiet_the_writing_thread()
        self._writer = self._attempt(self._open, step)

    def _open(self, step: int) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self._folder), purge_step=step + 1 if step else None)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Adds a point to a curve."""
        if self._writer is not None:
            self._attempt(self._writer.add_scalar, name, value, step)

    def add_picture(self, name: str, draw: Callable[[], np.ndarray], step: int) -> None:
        """Adds a picture (H, W, 3) uint8, which is drawn here."""
        if self._writer is not None:
            self._attempt(lambda: self._writer.add_image(name, draw(), step, dataformats="HWC"))

    def add_sound(self, name: str, wav: torch.Tensor, step: int, sampling_rate: int) -> None:
        """Adds a wave (T,)."""
        if self._writer is not None:
            sound = wav.detach().float().cpu().clamp(-1, 1)[None]
            self._attempt(self._writer.add_audio, name, sound, step, sampling_rate)

    def flush(self) -> None:
        """Puts on the disk what was added."""
        if self._writer is not None:
            self._attempt(self._writer.flush)

    def close(self) -> None:
        """Ends it."""
        if self._writer is not None:
            self._attempt(self._writer.close)

    def _attempt(self, work: Callable, *arguments: Any) -> Any:
        try:
            return work(*arguments)
        except Exception as error:  # its own thread's, protobuf's, matplotlib's: whatever it is, training goes on
            self._writer = None
            text = "%s: no more for TensorBoard (%s); training goes on without"
            logger.warning(text, self._folder, reason_of(error))
            return None


def _quiet_the_writing_thread() -> None:
    """TensorBoard hands on what ends its thread, which prints it too, as a traceback: that is left out."""
    if getattr(threading.excepthook, "is_ours", False):
        return
    before = threading.excepthook

    def hook(about: threading.ExceptHookArgs) -> None:
        if type(about.thread).__name__ != "_AsyncWriterThread":
            before(about)

    hook.is_ours = True
    threading.excepthook = hook


def mel_picture(mel: torch.Tensor) -> np.ndarray:
    """A log mel (M, N) in colours, low bands at the bottom: (3 M, 2 N, 3) uint8."""
    from matplotlib import colormaps

    values = np.flipud(mel.detach().float().cpu().numpy())
    shades = (values - values.min()) / max(np.ptp(values), 1e-6)
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
