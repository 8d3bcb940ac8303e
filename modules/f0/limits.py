"""The range in which pitch is looked for."""

from modules.errors import UsageError

F0_MIN, F0_MAX = 50.0, 1100.0  # Hz, unless a flag says otherwise; also the range that the coarse scale of voices spans
LOWEST, HIGHEST = 36.0, 2400.0  # Hz, of what is looked for in a second look, whatever the limits are
MOST = 2000.0  # Hz that a limit may be: what all networks can say


def check_limits(f0_min: float, f0_max: float) -> None:
    """Refuses limits between which no predictor can look."""
    if not LOWEST <= f0_min <= 400 <= f0_max <= MOST:
        raise UsageError(
            f"--f0_min {f0_min:g} and --f0_max {f0_max:g}: expected {LOWEST:g} to 400 Hz and 400 to {MOST:g} Hz"
        )
