"""TensorBoard events of a run: curves, pictures and sounds."""

from pathlib import Path
from typing import Any

import numpy as np
import torch


class EventFile:
    """TensorBoard events in a folder, which is made by the first of them.

    Args:
        step: where the run goes on; what a run that was killed logged after it is hidden.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        self._folder, self._first = folder, step + 1 if step else None
        self._writer: Any = None

    def close(self) -> None:
        """Flushes the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = self._first = None

    @property
    def writer(self) -> Any:
        """The `SummaryWriter`."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=self._first)
        return self._writer

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Points of curves."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """A picture (H, W, 3) uint8."""
        self.writer.add_image(name, picture, step, dataformats="HWC")

    def sound(self, step: int, name: str, wav: torch.Tensor, sampling_rate: int) -> None:
        """A wave (T,)."""
        self.writer.add_audio(name, wav.detach().float().cpu().clamp(-1, 1)[None], step, sampling_rate)


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
