"""RealtimeOptions: how a stream is cut into blocks, verified once."""

from dataclasses import dataclass

from modules.errors import UsageError

# What the numbers may be, both ends included.
BOUNDS: dict[str, tuple[float, float]] = {
    "block": (0.05, 5.0),
    "crossfade": (0.01, 1.0),
    "extra": (0.1, 10.0),
    "gate": (-120.0, 0.0),
}


@dataclass(frozen=True)
class RealtimeOptions:
    """What a stream is converted with, apart from the voice."""

    block: float = 0.5  # seconds that are converted at once
    crossfade: float = 0.08  # seconds in which a block goes over into the next, and that the output lags behind
    extra: float = 0.5  # seconds before a block that the networks are given with it
    gate: float = -60.0  # dB of full scale below which the input is silence; nothing is computed for it

    def __post_init__(self) -> None:
        problems = []
        for name, (low, high) in BOUNDS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                problems.append(f"--{name} is {value:g}; it must lie between {low:g} and {high:g}")
        if not problems and self.crossfade > self.block:
            problems.append(f"--crossfade {self.crossfade:g} is longer than --block {self.block:g}; take a shorter one")
        if problems:
            raise UsageError("; ".join(problems))
