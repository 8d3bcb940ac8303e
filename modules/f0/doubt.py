"""Where a pitch curve and the sound contradict each other after all repairs: how much, which notes, and the remedy."""

from dataclasses import dataclass, field

import numpy as np

from modules.f0.histogram import note_name

LEAST_SECONDS = 0.25  # less is not worth a word


@dataclass
class PitchDoubt:
    """What is doubtful about one song or one speaker; filled in part by part."""

    heard: list[float] = field(default_factory=list)  # Hz of the sound in the doubtful frames
    found: list[float] = field(default_factory=list)  # Hz of the curve there, 0 = unvoiced
    seconds: float = 0.0  # that they last together
    first: float = 0.0  # second in which the first begins
    last: float = 0.0  # second in which the last ends

    def add(self, curve: np.ndarray, heard: np.ndarray | None, hop_seconds: float, start: float = 0.0) -> None:
        """Takes a curve (N,) Hz, 0 where unvoiced, and what contradicts it, as `check_octaves` gives both; it begins at
        second `start`."""
        where = np.flatnonzero(heard) if heard is not None else ()
        if not len(where):
            return
        if not self.heard:
            self.first = max(0.0, start + where[0] * hop_seconds)
        self.last = start + (where[-1] + 1) * hop_seconds
        self.seconds += len(where) * hop_seconds
        self.heard += heard[where].tolist()
        self.found += curve[where].tolist()

    def describe(self, predictor: str, f0_min: float, f0_max: float) -> tuple[str, dict[str, str]] | None:
        """One clause, and the flags that mend it: `predictor`, `--f0_min`, `--f0_max`. None where all is well."""
        if self.seconds < LEAST_SECONDS:
            return None
        heard, found, flags = np.array(self.heard), np.array(self.found), {}
        low, high = float(heard.min()), float(np.percentile(heard, 98))
        if high > f0_max:
            flags["--f0_max"] = f"{min(100 * np.ceil(1.06 * high / 100), 2000):g}"
            what = f"notes of up to {_note(high)} lie above what {predictor} looks for (--f0_max {f0_max:g})"
        elif low < f0_min:
            flags["--f0_min"] = f"{max(np.floor(0.9 * low), 36):g}"
            what = f"notes down to {_note(low)} lie below what {predictor} looks for (--f0_min {f0_min:g})"
        else:
            middle = float(np.median(heard))
            voiced = found[found > 0]
            hears = _note(float(np.median(voiced))) if len(voiced) else "nothing"
            what = f"{predictor} hears {hears} where the sound has {_note(middle)}"
        if not flags or (predictor == "fcpe" and high > f0_max):  # the network of torchfcpe hears nothing up there
            flags["predictor"] = "harvest" if predictor == "pm" else "pm"
        return what, flags


def _note(hz: float) -> str:
    return f"{note_name(69 + 12 * np.log2(hz / 440))} ({hz:.0f} Hz)"
