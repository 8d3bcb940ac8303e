"""How well a converted song follows the melody of its source, in numbers and as a picture."""

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from modules.audio.mel import mel_spectrogram
from modules.config.audio import AudioSpec
from modules.contracts import F0
from modules.files import atomic_path
from modules.text import printable

PICTURE_MARK = "compare.py of VITS-SVC"  # in a picture's metadata


@dataclass(frozen=True)
class MelodyMatch:
    """How two F0 curves agree; what is said of pitch is NaN where fewer than three frames are voiced in both."""

    correlation: float  # Pearson's of log f0 over the frames voiced in both, -1 to 1
    cents: float  # median distance after the transposition is taken off
    transposition: float  # median of result over source, in semitones
    false_voicing: float  # share of the source's unvoiced frames in which the result is voiced, 0 to 1; NaN without any
    missed_voicing: float  # share of the source's voiced frames in which the result is not, 0 to 1; NaN without any
    voiced_seconds: float  # voiced in both
    rmse_cents: float  # root mean square distance after the transposition is taken off

    def __str__(self) -> str:
        return (
            f"log-f0 correlation {self.correlation:.4f} over {self.voiced_seconds:.1f} s voiced in both, "
            f"median {self.cents:.0f} cents off after {self.transposition:+.2f} semitones, "
            f"voicing false in {100 * self.false_voicing:.0f} % of the source's unvoiced frames, "
            f"missed in {100 * self.missed_voicing:.0f} % of its voiced ones"
        )


def match_melody(source: F0, result: F0, frame_rate: float) -> MelodyMatch:
    """Compares two F0 curves of `frame_rate` Hz frame by frame; the longer one is cut to the shorter."""
    n_frames = min(len(source.f0), len(result.f0))
    in_source, in_result = source.uv[:n_frames] > 0, result.uv[:n_frames] > 0
    both = in_source & in_result
    voicing = _share(in_result[~in_source]), _share(~in_result[in_source])
    if both.sum() < 3:
        return MelodyMatch(math.nan, math.nan, math.nan, *voicing, both.sum() / frame_rate, math.nan)
    octaves = [np.log2(curve.f0[:n_frames][both].astype(np.float64)) for curve in (source, result)]
    errors = 1200 * (octaves[1] - octaves[0])
    rmse = float(np.sqrt(np.mean((errors - np.median(errors)) ** 2)))
    semitones = [12 * curve for curve in octaves]
    shift = float(np.median(semitones[1] - semitones[0]))
    flat = min(np.ptp(curve) for curve in semitones) < 1e-9  # a constant has no correlation
    correlation = math.nan if flat else float(np.corrcoef(semitones)[0, 1])
    cents = float(np.median(np.abs(semitones[1] - semitones[0] - shift))) * 100
    return MelodyMatch(correlation, cents, shift, *voicing, both.sum() / frame_rate, rmse)


def draw_comparison(
    path: Path, sounds: dict[str, np.ndarray], curves: dict[str, F0], audio: AudioSpec, title: str
) -> None:
    """Writes a PNG: waveform (T,) and mel spectrum of each sound, at `audio.sampling_rate`, and all F0 curves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 9), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_plain(title), fontsize=10)
    rows = [[f"{kind} {index}" for index in range(len(sounds))] for kind in ("wave", "mel")]
    axes = figure.subplot_mosaic([*rows, ["f0"] * len(sounds)])
    for index, (name, wav) in enumerate(sounds.items()):
        seconds = len(wav) / audio.sampling_rate
        step = max(1, len(wav) // 20000)
        axes[f"wave {index}"].plot(np.arange(len(wav))[::step] / audio.sampling_rate, wav[::step], linewidth=0.4)
        axes[f"wave {index}"].set(title=_plain(name), xlim=(0, seconds), ylim=(-1, 1), ylabel="amplitude")
        mel = mel_spectrogram(torch.from_numpy(wav), audio).numpy()
        extent = 0, seconds, 0, len(mel)
        axes[f"mel {index}"].imshow(mel, origin="lower", aspect="auto", extent=extent, vmin=-11, vmax=2)
        axes[f"mel {index}"].set(ylabel="mel band")
    for name, curve in curves.items():
        voiced = np.where(curve.uv > 0, curve.f0, np.nan)
        axes["f0"].plot(np.arange(len(voiced)) / audio.frame_rate, voiced, linewidth=1.2, label=_plain(name), alpha=0.8)
    axes["f0"].set(yscale="log", ylabel="f0 (Hz)", xlabel="seconds")
    axes["f0"].legend(loc="upper right")
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of letters that the font lacks there is a box in the picture
        figure.savefig(temporary, dpi=80, format="png", metadata={"Software": PICTURE_MARK})


def is_own_picture(path: Path) -> bool:
    """Whether `draw_comparison` has written a file."""
    with path.open("rb") as file:
        return PICTURE_MARK.encode() in file.read(1024)


def _share(frames: np.ndarray) -> float:
    return float(np.mean(frames)) if len(frames) else math.nan


def _plain(text: str) -> str:
    """Text that matplotlib shows as it is: a name with two $ is no formula."""
    return printable(text).replace("$", r"\$")
