"""What resample.py has made: which clips came from which recording and how.

So a second run does only what is new or changed, and never touches a file that somebody else wrote.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

from modules.data.recordings import Recording
from modules.data.takes import WAV_HEADER, Made, is_long
from modules.errors import DataError, reason_of
from modules.files import discard, sha256_of, write_json

_WORK_PER_FLUSH = 20  # the manifest is written as often as costs a twentieth of the time


@dataclass(frozen=True)
class State:
    """What there is of a recording."""

    is_done: bool  # whether there is nothing to make
    n_unchanged: int  # clips that are as they should be
    foreign: tuple[Path, ...]  # files at the places of clips that resample.py did not write as they are now
    deleted: tuple[Path, ...] = ()  # numbered clips that somebody has taken out; the others of the recording are there


class Manifest:
    """Which clips were made from what; kept in the output folder and written as work goes on.

    An entry stands under the name of the clip that the whole recording would be. Its output is what was written there
    (size, time, digest), or that by name for the numbered clips of a long recording. An entry without an output was
    being made when it was written: after a crash its file is ours and is made again, and so are those numbered clips
    whose digests it has noted, before and after.
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

    def state_of(self, recording: Recording) -> State:
        """Whether a recording is to be made, and which files of others would be in the way."""
        entry, target = self._entries.get(self._key(recording)), recording.target
        if entry and entry["output"] is None:
            return State(False, 0, ())
        known = _clips_of(target.name, entry) if entry else {}
        places = [target.with_name(name) for name in known]
        foreign = [place for place in places if place.exists() and not _is_written(place, known[place.name])]
        missing = [place for place in places if not place.exists()]
        if len(missing) < len(places) and _is_current(entry, recording):
            return State(True, len(places) - len(foreign) - len(missing), tuple(foreign), tuple(missing))
        is_taken = target in foreign or (target.name not in known and target.exists())
        return State(is_taken, 0, (target,) if is_taken else ())

    def begin(self, recordings: list[Recording]) -> None:
        """Writes down what is about to be made, and which clips in its place are ours."""
        for recording in recordings:
            entry = self._entries.get(self._key(recording), {})
            mine = dict(entry.get("mine", {}))
            if entry.get("output"):
                mine |= {name: [output[2]] for name, output in _clips_of(recording.target.name, entry).items()}
            self._entries[self._key(recording)] = {"made_from": _origin(recording), "output": None, "mine": mine}
        if recordings:
            self.flush()

    def finish(self, recording: Recording, made: Made, overwrite: bool) -> tuple[list[Path], list[Path]]:
        """Brings finished clips to their places and notes them; (files of others that stayed, old clips removed).

        On disk at once, or within about a second where there are many thousands.
        """
        key, entry, target = self._key(recording), self._entries[self._key(recording)], recording.target
        before = entry["mine"].keys() | ({target.name} if overwrite else set())
        old = [target.with_name(name) for name in sorted(before - made.clips.keys())]
        stayed, removed = [], []
        try:
            if made.temporaries or old:  # what lies in their places is ours from now on, wherever this is ended
                for name, output in made.clips.items():
                    entry["mine"][name] = [*entry["mine"].get(name, []), output[2]]
                self.flush()
            for place in [*map(target.with_name, made.temporaries), *old]:
                is_there = place.exists()
                if is_there and not overwrite and sha256_of(place) not in entry["mine"][place.name]:
                    stayed.append(place)
                elif place.name in made.temporaries:
                    made.temporaries[place.name].replace(place)
                    self._entries.pop(self._key_of(place), None)
                elif is_there:
                    discard(place)
                    removed.append(place)
        finally:
            for temporary in made.temporaries.values():
                discard(temporary)
        for place in set(stayed) & set(old):  # named from now on as a clip without a recording
            orphan = {"made_from": entry["made_from"], "output": [0, 0, entry["mine"][place.name][0]]}
            self._entries.setdefault(self._key_of(place), orphan)
        clips = {name: list(output) for name, output in made.clips.items()}
        self._entries[key] = {"made_from": entry["made_from"], "output": clips.get(target.name)}
        if made.temporaries:
            slicing = {"slice": list(recording.lengths)}
            self._entries[key] = {"made_from": entry["made_from"] | slicing, "output": clips}
        if time.monotonic() > self._next_flush:
            self.flush()
        return stayed, removed

    def orphans(self, recordings: list[Recording]) -> list[Path]:
        """Clips of ours that exist although none of `recordings` would become them."""
        wanted = {self._key(recording) for recording in recordings}
        gone = {key: entry for key, entry in self._entries.items() if key not in wanted}
        inside = [key for key in gone if PurePath(key).name and not PurePath(key).is_absolute()]
        inside = [key for key in inside if ".." not in PurePath(key).parts]
        places = [self._out_dir.joinpath(key).with_name(name) for key in inside for name in _names_of(key, gone[key])]
        return [path for path in places if path.exists()]

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
        return self._key_of(recording.target)

    def _key_of(self, path: Path) -> str:
        return path.relative_to(self._out_dir).as_posix()


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("made_from"), dict) or "output" not in entry:
        return False
    output, mine = entry["output"], entry.get("mine", {})
    clips = output if isinstance(output, dict) else {} if output is None else {"one": output}
    are_outputs = output != {} and all(
        isinstance(value, list) and [type(part) for part in value] == [int, int, str] for value in clips.values()
    )
    are_digests = isinstance(mine, dict) and all(isinstance(value, list) for value in mine.values())
    return are_outputs and are_digests and all(map(_is_name, [*clips, *mine]))


def _is_name(name: str) -> bool:
    """Of a file in the speaker's folder: what is not ours must not be deleted by way of a manifest."""
    return name not in ("", "..") and PurePosixPath(name).name == name == PureWindowsPath(name).name


def _clips_of(name: str, entry: dict) -> dict[str, list]:
    """The outputs of an entry by name."""
    output = entry["output"]
    return output if isinstance(output, dict) else {name: output}


def _names_of(key: str, entry: dict) -> list[str]:
    """All clips that may have been made of an entry; of one that was being made, those that were there before."""
    return list(_clips_of(PurePath(key).name, entry) if entry["output"] else entry.get("mine", {}))


def _is_written(path: Path, output: list) -> bool:
    """Whether a file is as we wrote it; a copy has another time but our content."""
    size, mtime_ns, digest = output
    stat = path.stat()
    return stat.st_size == size and (stat.st_mtime_ns == mtime_ns or sha256_of(path) == digest)


def _is_current(entry: dict, recording: Recording) -> bool:
    """Whether a recording would become the same again."""
    if isinstance(entry["output"], dict):
        slicing = {"slice": list(recording.lengths or ())}
        return entry["made_from"] == _origin(recording) | slicing
    # Less a hundredth: the length before resampling decides, and no clip must be made again and again.
    seconds = (entry["output"][0] - WAV_HEADER) / 2 / recording.rate - 0.01
    return entry["made_from"] == _origin(recording) and not is_long(seconds, recording.lengths)


def _origin(recording: Recording) -> dict:
    origin = {"source": recording.name, "rate": recording.rate, "normalise": recording.normalise}
    try:
        stat = recording.source.stat()
    except OSError:  # a broken link, say; reading it gives the message
        return origin
    return {**origin, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
