"""What resample.py has made: which clips came from which recording and how.

So a second run does only what is new or changed, and never touches a file that somebody else wrote.
"""

import json
import time
from pathlib import Path, PurePath

from modules.data.recordings import Recording
from modules.errors import DataError, reason_of
from modules.files import sha256_of, write_json

_WORK_PER_FLUSH = 20  # the manifest is written as often as costs a twentieth of the time


class Manifest:
    """Which clips were made from what; kept in the output folder and written as work goes on.

    An entry without an output was being made when it was written: after a crash its file is ours and is made again.
    """

    def __init__(self, out_dir: Path) -> None:
        self._out_dir, self._path = out_dir, out_dir / ".resample.json"
        self._entries: dict[str, dict] = {}
        self._next_flush = 0.0
        if self._path.is_file():
            try:
                self._entries = json.loads(self._path.read_text("utf-8"))
                if not isinstance(self._entries, dict) or not all(map(_is_entry, self._entries.values())):
                    raise ValueError("not a list of clips")
            except (ValueError, OSError, RecursionError) as error:
                problem = f"damaged ({reason_of(error, self._path)})"
                raise DataError(f"{self._path}: {problem}. Delete it and use --overwrite.") from None

    def state_of(self, recording: Recording) -> str:
        """ "new", "done", or "foreign": at the clip's place lies a file that resample.py did not write as it is now."""
        entry = self._entries.get(self._key(recording))
        if not recording.target.exists() or (entry and entry.get("output") is None):
            return "new"
        if entry is None:
            return "foreign"
        size, mtime_ns, digest = entry["output"]
        stat = recording.target.stat()
        if stat.st_size != size or (stat.st_mtime_ns != mtime_ns and sha256_of(recording.target) != digest):
            return "foreign"  # a copy of our clip has another time but our content
        return "done" if entry["made_from"] == _origin(recording) else "new"

    def begin(self, recordings: list[Recording]) -> None:
        """Writes down what is about to be made."""
        self._entries |= {self._key(entry): {"made_from": _origin(entry), "output": None} for entry in recordings}
        if recordings:
            self.flush()

    def finish(self, recording: Recording, output: tuple[int, int, str]) -> None:
        """Notes a finished clip; on disk at once, or within about a second where there are many thousands."""
        self._entries[self._key(recording)]["output"] = list(output)
        if time.monotonic() > self._next_flush:
            self.flush()

    def orphans(self, recordings: list[Recording]) -> list[Path]:
        """Clips of ours that exist although none of `recordings` would become them."""
        wanted = {self._key(recording) for recording in recordings}
        mine = (key for key, entry in self._entries.items() if entry["output"] and key not in wanted)
        inside = [key for key in mine if ".." not in PurePath(key).parts and not PurePath(key).is_absolute()]
        return [path for path in map(self._out_dir.joinpath, inside) if path.exists()]

    def flush(self) -> None:
        """Writes the manifest; a DataError where the output folder cannot be made or written."""
        started = time.monotonic()
        try:
            write_json(self._path, self._entries, indent=None)
        except OSError as error:
            raise DataError(f"{self._out_dir}: clips cannot be written there ({reason_of(error)})") from None
        done = time.monotonic()
        self._next_flush = done + _WORK_PER_FLUSH * (done - started)

    def _key(self, recording: Recording) -> str:
        return recording.target.relative_to(self._out_dir).as_posix()


def _is_entry(entry: object) -> bool:
    output = entry.get("output") if isinstance(entry, dict) and "made_from" in entry else "not an entry"
    return output is None or (isinstance(output, list) and len(output) == 3)


def _origin(recording: Recording) -> dict:
    origin = {"source": recording.name, "rate": recording.rate, "normalise": recording.normalise}
    try:
        stat = recording.source.stat()
    except OSError:  # a broken link, say; reading it gives the message
        return origin
    return {**origin, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
