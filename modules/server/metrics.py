"""What the server has done, in Prometheus's text format."""

import threading
from collections import Counter
from collections.abc import Mapping

_HELP = {
    "requests_total": ("counter", "Answers by route and HTTP status."),
    "conversions_total": ("counter", "Conversions by how they ended."),
    "converted_seconds_total": ("counter", "Seconds of songs that were converted."),
    "computing_seconds_total": ("counter", "Seconds that these conversions took."),
    "realtime_factor": ("gauge", "Computing time over duration, of all of them: below 1 is faster than playing."),
    "queue_length": ("gauge", "Songs that wait or are on their way."),
    "in_work": ("gauge", "Songs that are being converted, 0 or 1."),
    "kept_jobs": ("gauge", "Ended jobs that can still be asked for."),
    "kept_bytes": ("gauge", "Bytes of their results."),
}
_PREFIX = "voice_server_"


class Metrics:
    """Counters; any thread may add to them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()  # (name, labels) -> value

    def add(self, name: str, amount: float = 1, **labels: object) -> None:
        """Adds to a counter of `_HELP`; labels are values of ours, never of a client."""
        assert name in _HELP
        shown = ",".join(f'{key}="{value}"' for key, value in labels.items())
        with self._lock:
            self._counts[name, f"{{{shown}}}" if shown else ""] += amount

    def text(self, gauges: Mapping[str, float]) -> str:
        """All there is, with the gauges as they are now."""
        with self._lock:
            counts = dict(self._counts)
        converted = counts.get(("converted_seconds_total", ""), 0)
        factor = counts.get(("computing_seconds_total", ""), 0) / converted if converted else 0.0
        values = {"converted_seconds_total": 0, "computing_seconds_total": 0, "realtime_factor": factor, **gauges}
        counts = {**{(name, ""): value for name, value in values.items()}, **counts}
        lines = []
        for name, (kind, about) in _HELP.items():
            lines += [f"# HELP {_PREFIX}{name} {about}", f"# TYPE {_PREFIX}{name} {kind}"]
            found = sorted((labels, value) for (of, labels), value in counts.items() if of == name)
            lines += [f"{_PREFIX}{name}{labels} {value:.10g}" for labels, value in found]
        return "\n".join(lines) + "\n"
