"""TensorBoard events of a run: curves, pictures and sounds."""

from pathlib import Path
from typing import Any

import numpy as np
import torch


def open_events(folder: Path, step: int) -> Any:
    """A `SummaryWriter` of a run that goes on at `step`; what a run that was killed logged after it is hidden."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


def add_sound(events: Any, name: str, wav: torch.Tensor, step: int, sampling_rate: int) -> None:
    """Adds a wave (T,)."""
    events.add_audio(name, wav.detach().float().cpu().clamp(-1, 1)[None], step, sampling_rate)


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
