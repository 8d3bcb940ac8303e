"""What on_gpu.py's sections measure with: rows of numbers with units and targets, clocks that wait for the device.

Sections themselves are in gpu_conversion.py and gpu_training.py.
"""

import contextlib
import gc
import math
import operator
import os
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # on_gpu.py --help imports this file
    import numpy as np
    import torch

LARGEST_SNR = 200.0  # dB, where two waves are equal


class Value(NamedTuple):
    """A number, or some words, of a row."""

    number: float | str
    unit: str = ""
    target: str = ""  # on a GPU: "<= 0.02" or ">= 2"


Values = dict[str, Value]


@dataclass(frozen=True)
class Plan:
    """How much is measured, and where."""

    device_name: str | None  # None: the best there is
    is_tiny: bool  # micro networks and a second of audio
    workspace: Path  # for made weights, songs and clips, which sections share

    @property
    def size(self) -> str:
        """The preset of the voice."""
        return "micro" if self.is_tiny else "base"

    @property
    def song_seconds(self) -> float:
        """Of the converted song, without its pauses."""
        return 0.6 if self.is_tiny else 150.0

    @property
    def clips_seconds(self) -> float:
        """Of the training clips together."""
        return 6.0 if self.is_tiny else 300.0

    @property
    def steps(self) -> int:
        """Training steps that count, after as many that warm up."""
        return 1 if self.is_tiny else 30

    def repeats(self, usual: int) -> int:
        """How often something is measured."""
        return 1 if self.is_tiny else usual

    def warm(self, usual: int) -> int:
        """How often it is done before that."""
        return 0 if self.is_tiny else usual


class Bench:
    """What a section is given: the plan, the device, and where its rows go."""

    def __init__(self, plan: Plan, emit: Callable[[dict[str, Any]], None]) -> None:
        from modules.device import choose_device

        self.plan, self.emit, self.device = plan, emit, choose_device(plan.device_name)
        if self.on_cuda:
            import torch

            torch.cuda.set_device(self.device)  # graphs and streams name none

    @property
    def on_cuda(self) -> bool:
        """Whether the device is a CUDA GPU."""
        return self.device.type == "cuda"

    def measure(self, what: str, function: Callable[..., Values], *values: object) -> Values | None:
        """Makes a row of what `function(self, *values)` finds; where it fails, the row says so and None comes back."""
        try:
            found = function(self, *values)
        except Exception as error:  # whatever it is, the other rows are wanted
            self.emit({"what": what, "failed": last_line(error), "traceback": traceback.format_exc()})
            return None
        finally:
            self.free()
        self.emit({"what": what, "values": {name: self._plain(value) for name, value in found.items()}})
        return found

    def skip(self, what: str, reason: str) -> None:
        """Makes a row that says why there is nothing to measure."""
        self.emit({"what": what, "skipped": reason})

    def free(self) -> None:
        """Gives the device's unused memory back, so that rows do not meet each other's."""
        gc.collect()
        if self.on_cuda:
            import torch

            torch.cuda.empty_cache()

    def made(self, name: str, write: Callable[..., None], *values: object) -> None:
        """Calls `write(workspace, *values)` unless an earlier section has, and has come to its end."""
        stamp = self.plan.workspace / f".{name}"
        if not stamp.is_file():
            write(self.plan.workspace, *values)
            stamp.touch()

    def synchronize(self) -> None:
        """Returns when the device has done all its work."""
        if self.on_cuda:
            import torch

            torch.cuda.synchronize(self.device)

    def clock(self, function: Callable[[], object], repeats: int, warm: int = 1) -> list[float]:
        """Seconds of each of `repeats` calls, after `warm` others; a tiny plan makes one call."""
        times, warm = [], self.plan.warm(warm)
        for _ in range(warm + self.plan.repeats(repeats)):
            self.synchronize()
            started = time.perf_counter()
            function()
            self.synchronize()
            times.append(time.perf_counter() - started)
        return times[warm:]

    def reset_peak(self) -> None:
        """`memory` counts from here on, where the device is a GPU."""
        if self.on_cuda:
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)

    def memory(self) -> Value:
        """The most memory held: tensors on a GPU, else the whole process since its start."""
        from modules.device import peak_memory

        found = peak_memory(self.device)
        return Value("unknown here") if found is None else Value(found / 2**20, "MB")

    def _plain(self, value: Value) -> dict[str, Any]:
        """A value for JSON; whether a target is met is said of GPUs only."""
        plain = {"value": value.number, "unit": value.unit}
        if value.target:
            plain |= {"target": value.target, "met": is_met(value) if self.on_cuda else None}
        return plain


def is_met(value: Value) -> bool:
    """Whether a number is on the right side of its target."""
    sign, limit = value.target.split()
    return {"<=": operator.le, ">=": operator.ge, ">": operator.gt}[sign](value.number, float(limit))


def last_line(error: BaseException) -> str:
    """The kind of an error and the last line of what it says."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1].strip()}"[:300]


def snr_db(wanted: "np.ndarray", found: "np.ndarray") -> float:
    """Level of `wanted` (T,) above its difference from `found` (T,), in dB, at most `LARGEST_SNR`."""
    import numpy as np

    wanted, found = (np.asarray(wav, np.float64) for wav in (wanted, found))
    signal, noise = float(np.sum(wanted**2)), float(np.sum((wanted - found) ** 2))
    if not math.isfinite(noise) or not signal:
        return -LARGEST_SNR
    return LARGEST_SNR if not noise else min(LARGEST_SNR, 10 * math.log10(signal / noise))


def device_seconds(device: "torch.device", function: Callable[[], object]) -> float | None:
    """Seconds in which a CUDA device had anything to do during a call, by torch's profiler; None if it saw nothing."""
    import torch
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        function()
        torch.cuda.synchronize(device)
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
    ]
    return covered(spans) / 1e6 if spans else None


def covered(spans: list[tuple[float, float]]) -> float:
    """The length that spans cover together: [0, 2], [1, 3] and [5, 6] cover 4."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """The folder is the current one."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
