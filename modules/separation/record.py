"""`separation.json` in the folder of a song: from what and by what its parts were made."""

import json
import logging
from functools import cache
from pathlib import Path
from typing import Any

from modules.errors import UserError, reason_of
from modules.files import discard, read_bytes, sha256_of, write_json
from modules.separation.stages import Stage

logger = logging.getLogger(__name__)

NAME = "separation.json"
SUFFIX = ".flac"


def identity(path: Path) -> str:
    """SHA-256 of a file as it is now, computed once."""
    stat = path.stat()
    return _hash(path, stat.st_size, stat.st_mtime_ns)


@cache
def _hash(path: Path, size: int, changed: int) -> str:
    return sha256_of(path)


class Record:
    """What the stages of one folder were made from; a key is a dictionary of plain values that says it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._stages = folder, {}
        try:
            found = json.loads(read_bytes(folder / NAME, 1 << 20))
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError) as error:
            reason = reason_of(error, folder / NAME) if isinstance(error, OSError) else "is not JSON"
            logger.warning("%s: %s; what was separated before is not known", folder / NAME, reason)
            return
        entries = found.items() if isinstance(found, dict) else ()
        self._stages = {name: entry for name, entry in entries if isinstance(entry, dict)}

    def path(self, output: str) -> Path:
        """The file of a part of the song."""
        return self._folder / (output + SUFFIX)

    def is_done(self, stage: Stage, key: dict[str, Any]) -> bool:
        """Whether its files are there as they were made, from the same by the same."""
        sizes = self._sizes(stage)
        is_same = self._stages.get(stage.name, {}).get("key") == key
        return is_same and all(self._size(output) == sizes.get(output, -1) for output in stage.outputs)

    def is_foreign(self, stage: Stage, key: dict[str, Any]) -> bool:
        """Whether a file has one of its names that was made from something else, by another model or by others."""
        there = [output for output in stage.outputs if self._size(output) is not None]
        entry = self._stages.get(stage.name, {})
        if not there or (entry.get("key") == key and "sizes" not in entry):  # stopped before all were in their places
            return False
        sizes = self._sizes(stage)
        return entry.get("key") != key or any(self._size(output) != sizes.get(output, -1) for output in there)

    def begin(self, stage: Stage, key: dict[str, Any]) -> None:
        """Notes that the files of a stage are about to be made, and that those there may be replaced."""
        self._stages[stage.name] = {"key": key}
        self._write()

    def finish(self, stage: Stage, about: dict[str, Any]) -> None:
        """Notes that the files of a stage are complete; `about` is for people."""
        self._stages[stage.name] |= {**about, "sizes": {output: self._size(output) for output in stage.outputs}}
        self._write()

    def drop_later(self, stage: Stage, first: dict[str, Any]) -> None:
        """Deletes the files of a stage that came after the one of the key `first`, but not of what that has made now;
        the user's own stay."""
        entry = self._stages.get(stage.name)
        if entry is None or not _is_later(entry.get("key"), first):
            return
        sizes = self._sizes(stage)
        for output in stage.outputs:
            if output in sizes and self._size(output) == sizes[output]:
                logger.info("%s removed: it was made from parts that are replaced", self.path(output))
                discard(self.path(output))
        del self._stages[stage.name]
        self._write()

    def _sizes(self, stage: Stage) -> dict[str, Any]:
        found = self._stages.get(stage.name, {}).get("sizes")
        return found if isinstance(found, dict) else {}

    def _size(self, output: str) -> int | None:
        path = self.path(output)
        return path.stat().st_size if path.is_file() else -2 if path.exists() else None

    def _write(self) -> None:
        try:
            write_json(self._folder / NAME, self._stages)
        except OSError as error:
            raise UserError(f"{self._folder / NAME}: cannot be written ({reason_of(error)})") from None


def _is_later(key: Any, first: dict[str, Any]) -> bool:
    """Whether a stage used other files than those of the key `first`, and more models than that."""
    models = key.get("models_sha256") if isinstance(key, dict) else None
    if not isinstance(models, list):
        return True
    n_first = len(first["models_sha256"])
    return len(models) > n_first and {**key, "models_sha256": models[:n_first]} != first
