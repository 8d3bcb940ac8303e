"""Limits of the server: what one request, and all of them together, may take of this machine."""

from dataclasses import dataclass

from modules.errors import UsageError

MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What is taken in, how long it may take, what is kept; the flags of serve.py by their names."""

    max_mb: float = 100.0  # of a song as it is sent
    max_seconds: float = 900.0  # of its sound
    queue: int = 8  # songs that may wait or be on their way, beside the one in work
    time_limit: float = 900.0  # seconds that a conversion may take, and the sending of a song
    keep_minutes: float = 60.0  # until the result of a job is deleted
    keep_mb: float = 1000.0  # of results together; the oldest go first
    grace: float = 30.0  # seconds that the song in work has to end when the server is told to stop

    def __post_init__(self) -> None:
        wrong = [name for name, value in vars(self).items() if not 0 < value < float("inf")]
        if wrong:
            raise UsageError("; ".join(f"--{name} is {getattr(self, name):g}; expected more than 0" for name in wrong))

    @property
    def max_bytes(self) -> int:
        """Of a song as it is sent."""
        return int(self.max_mb * MEGABYTE)
