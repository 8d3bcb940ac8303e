"""Mixing voices: how much each speaker counts at every moment of a song, from the command line or from a file.

A map gives each speaker a track of segments `[t0, t1, v0, v1]`: from `t0` to `t1` the value goes from `v0` to `v1` in a
straight line. At every moment the values of all tracks are divided by their sum:

    "alto":  [[0, 0.5, 1, 1], [0.5, 1, 1, 0]]      alone in the first half of the song, then fading out
    "tenor": [[0, 0.5, 0, 0], [0.5, 1, 0, 1]]      fading in over the second half

Differences from so-vits-svc 4.1: fractions count on the song itself (there on the sum of its padded segments, so a
change came later or earlier than written); a speaker may be left out (there each needed a track); seconds are possible.
"""

import ast
import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from modules.errors import ConfigError, UsageError
from modules.text import listing

MAP_NAME = "spk_mix_map"  # what so-vits-svc 4.1 calls the map in spkmix.py
MAX_BYTES = 1_000_000
UNITS = ("fraction", "seconds")
_SLACK = 1e-6  # of a time: 0.1 + 0.2 and 0.3 are the same place
_SEGMENT = "[start, end, value at the start, value at the end]"


@dataclass(frozen=True)
class Track:
    """One speaker's part."""

    speaker: int  # id
    segments: tuple[tuple[float, float, float, float], ...]  # (t0, t1, v0, v1), contiguous from t0 = 0


@dataclass(frozen=True)
class SpeakerMix:
    """The weights of all speakers over a song; made by `constant_mix` or `load_mix`."""

    n_speakers: int  # S, the highest speaker id + 1
    unit: str  # what the times of the tracks count: "fraction" of the song's length, or "seconds"
    tracks: tuple[Track, ...]  # in the order of the ids; a speaker without one has weight 0

    @property
    def description(self) -> dict[str, Any]:
        """The mix as plain values for JSON; equal mixes have equal descriptions (a key for a cache)."""
        tracks = {str(track.speaker): [list(segment) for segment in track.segments] for track in self.tracks}
        return {"n_speakers": self.n_speakers, "unit": self.unit, "tracks": tracks}

    def weights(self, times: np.ndarray, song_seconds: float) -> np.ndarray:
        """(S, N) float32: how much each speaker (row: id) counts at `times` (N,) in seconds; every column sums to 1.

        Before 0 the first value holds, after the last segment its end value; where two segments meet, the later counts.
        Where all tracks are 0, the speakers that have a track share equally.
        """
        times = np.asarray(times, np.float64)
        if self.unit == "fraction":
            with np.errstate(over="ignore"):  # a song of next to no length: all of it is its end
                times = times / song_seconds if song_seconds > 0 else np.zeros_like(times)
        values = np.stack([_values(track, times) for track in self.tracks])
        largest = values.max(axis=0)
        # Dividing by the largest first keeps the sum finite, whatever numbers people write.
        values = np.where(largest == 0, 1.0, values / np.where(largest == 0, 1.0, largest))
        result = np.zeros((self.n_speakers, len(times)), np.float32)
        result[[track.speaker for track in self.tracks]] = values / values.sum(axis=0)
        return result


def constant_mix(words: list[str], speakers: dict[str, int]) -> SpeakerMix:
    """The same mix all through the song, from words like `alto=0.7 tenor=0.3` (flag --mix), split at the last `=`.

    Weights are divided by their sum; a number that is nobody's name in `speakers` (name -> id) is taken for an id.
    """
    if not words:
        raise UsageError(f"--mix is empty; give SPEAKER=WEIGHT for some of: {_listed(speakers)}")
    found: dict[int, float] = {}
    for word in words:
        name, equals, number = word.rpartition("=")
        speaker = _find_speaker(name, speakers)
        if not equals:
            raise UsageError(f"--mix {word!r}: expected SPEAKER=WEIGHT, for example {next(iter(speakers), 'alto')}=0.7")
        if speaker is None:
            raise UsageError(f"--mix {word!r}: the model has no speaker {name!r}. It has: {_listed(speakers)}")
        if speaker in found:
            raise UsageError(f"--mix {word!r}: that speaker is there twice; leave one of them out")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not (math.isfinite(weight) and weight >= 0):
            raise UsageError(f"--mix {word!r}: the weight is {number!r}; expected a number from 0 up")
        found[speaker] = weight
    largest = max(found.values())
    if largest == 0:
        raise UsageError(f"--mix {' '.join(words)}: all weights are 0; give one speaker a larger weight")
    total = sum(weight / largest for weight in found.values())
    shares = {speaker: weight / largest / total for speaker, weight in sorted(found.items()) if weight > 0}
    tracks = tuple(Track(speaker, ((0.0, 1.0, share, share),)) for speaker, share in shares.items())
    return SpeakerMix(max(speakers.values()) + 1, "fraction", tracks)


def load_mix(path: Path, speakers: dict[str, int], song_seconds: float | None = None) -> SpeakerMix:
    """A mix that changes over the song, from `spkmix.json` or from the `spkmix.py` of so-vits-svc 4.1.

    The file holds {speaker: segments}, or {"unit": "seconds" or "fraction", "tracks": {speaker: segments}}. A speaker
    is a name or an id; a text that is both is the name. Fractions go from 0 to 1; seconds begin at 0 and may end
    anywhere, the last value holds. Only messages depend on `song_seconds`: they can name the second.
    """
    content = _read(path, speakers)
    unit, tracks = "fraction", content
    if isinstance(content, dict) and (isinstance(content.get("tracks"), dict) or isinstance(content.get("unit"), str)):
        unit, tracks = content.get("unit", unit), content.get("tracks")
        unknown = [_shown(key) for key in content if key not in ("unit", "tracks")]
        if unknown:
            raise ConfigError(f"{path}: {', '.join(unknown[:4])} beside unit and tracks; put speakers inside tracks")
        if unit not in UNITS:
            raise ConfigError(f"{path}: unit is {_shown(unit)}; expected one of: {', '.join(UNITS)}")
    if not isinstance(tracks, dict) or not tracks:
        what = "holds no speaker" if tracks == {} else f"holds {_shown(tracks)}, not a map of speakers"
        raise ConfigError(f"{path}: {what}. Write, for example: {_example(speakers)}")
    found: dict[int, Track] = {}
    for key in tracks:
        speaker = _find_speaker(key, speakers)
        if speaker is None:
            raise ConfigError(f"{path}: the model has no speaker {_shown(key)}. It has: {_listed(speakers)}")
        if speaker in found:
            raise ConfigError(
                f"{path}: speaker {_shown(key)} has two tracks, by name and by id ({speaker}); remove one"
            )
        try:
            segments = _contiguous(_numbers(tracks[key]), unit, song_seconds)
        except ValueError as error:
            raise ConfigError(f"{path}: speaker {_shown(key)}{error}") from None
        found[speaker] = Track(speaker, segments)
    return SpeakerMix(max(speakers.values()) + 1, unit, tuple(found[speaker] for speaker in sorted(found)))


def _numbers(rows: Any) -> list[tuple[float, float, float, float]]:
    """`rows` if they are segments of four finite numbers; else a ValueError that says what stands where."""
    from pydantic import Field, TypeAdapter, ValidationError  # help and wrong flags should not wait for it

    number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
    segments = TypeAdapter(Annotated[list[tuple[number, number, number, number]], Field(min_length=1)])
    try:
        return segments.validate_python(rows)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    place, shown = first["loc"], _shown(first["input"])
    if not place:
        raise ValueError(f": {shown} is not a list of segments {_SEGMENT}")
    if len(place) == 1 or first["type"] == "missing":
        raise ValueError(f", segment {place[0] + 1}: {shown} is not {_SEGMENT}")
    where = f", segment {place[0] + 1}, number {place[1] + 1}"
    raise ValueError(f"{where}: {shown} is not a finite number; expected {_SEGMENT}")


def _contiguous(
    rows: list[tuple[float, float, float, float]], unit: str, song_seconds: float | None
) -> tuple[tuple[float, float, float, float], ...]:
    """The segments of a track, each from exactly where the one before ends."""

    def place(time: float) -> str:
        if unit == "seconds":
            return f"at {time:.9g} s"
        return f"at {time:.9g}" + (f" ({time * song_seconds:.2f} s)" if song_seconds is not None else "")

    segments, due = [], 0.0
    for number, (start, end, first, last) in enumerate(rows, 1):
        where = f", segment {number}, {place(start)}"
        if abs(start - due) > _SLACK:
            if number == 1:
                raise ValueError(f"{where}: the track starts here; let it start at 0")
            kind = "leaves a gap after" if start > due else "overlaps"
            raise ValueError(f"{where}: {kind} the segment before, which ends {place(due)}; start there")
        if end <= start or end <= due:
            raise ValueError(f"{where}: ends {place(end)}; let it end after its start")
        for time, value in ((start, first), (end, last)):
            if value < 0:
                raise ValueError(f", segment {number}, {place(time)}: the value is {value:g}; expected 0 or more")
        segments.append((due, end, first, last))
        due = end
    if unit == "fraction" and abs(due - 1) > _SLACK:
        raise ValueError(f", segment {len(rows)}, {place(due)}: the track ends here; let it end at 1")
    return tuple(segments)


def _values(track: Track, times: np.ndarray) -> np.ndarray:
    """(N,) values of one track, before they are divided by the sum of all."""
    starts, ends, first, last = np.array(track.segments, np.float64).T
    index = np.maximum(np.searchsorted(starts, times, side="right") - 1, 0)
    with np.errstate(over="ignore"):  # far behind a very short segment; the limit is 1 anyway
        along = np.clip((times - starts[index]) / (ends - starts)[index], 0.0, 1.0)
    return first[index] * (1 - along) + last[index] * along


def _read(path: Path, speakers: dict[str, int]) -> Any:
    """The plain values in a file of either kind; the suffix `.py` says which."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file. Make it, for example with this text: {_example(speakers)}")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: is larger than {MAX_BYTES // 1000} kB; that is not a map of speakers")
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}). Save it as UTF-8 text.") from None
    try:
        return _read_python(path, text) if path.suffix.lower() == ".py" else _read_json(path, text)
    except (RecursionError, MemoryError, ValueError) as error:  # nested too deeply; a number of thousands of digits
        raise ConfigError(f"{path}: cannot be read ({str(error) or 'nested too deeply'}). Correct it.") from None


def _read_json(path: Path, text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise ConfigError(f"{path}: {_shown(name)} is there twice; remove one")
            found[name] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}. Fix that line."
        ) from None


def _read_python(path: Path, text: str) -> Any:
    """What a Python file assigns to `spk_mix_map`, the last time if there are several; the file is not run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # backslashes in a comment text are not our matter
            statements = ast.parse(text).body
    except SyntaxError as error:
        raise ConfigError(f"{path}: not valid Python at line {error.lineno}: {error.msg}. Fix that line.") from None
    node = None
    for statement in statements:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
            node = statement.value if any(getattr(name, "id", "") == MAP_NAME for name in targets) else node
    if node is None:
        raise ConfigError(f"{path}: assigns nothing to {MAP_NAME}. Write: {MAP_NAME} = {{0: [[0, 1, 1, 1]]}}")
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        raise ConfigError(
            f"{path}: line {node.lineno}: {MAP_NAME} holds more than numbers and names, and the file is not run. "
            "Write the numbers themselves."
        ) from None
    if isinstance(node, ast.Dict) and len(node.keys) > len(value):
        raise ConfigError(f"{path}: line {node.lineno}: {MAP_NAME} has a speaker twice; remove one")
    return value


def _find_speaker(key: Any, speakers: dict[str, int]) -> int | None:
    """The id that a name, an id or the digits of an id stand for."""
    if isinstance(key, str):
        if key in speakers:
            return speakers[key]
        key = int(key) if key.isascii() and key.isdecimal() and len(key) < 10 else None
    return key if isinstance(key, int) and not isinstance(key, bool) and key in speakers.values() else None


def _listed(speakers: dict[str, int]) -> str:
    return listing(f"{name} (id {speaker})" for name, speaker in speakers.items())


def _example(speakers: dict[str, int]) -> str:
    """A map that goes from the first speaker to the second one, as text for a file."""
    values = ([1, 0], [0, 1]) if len(speakers) > 1 else ([1, 1],)
    return json.dumps({name: [[0, 1, *value]] for name, value in zip(speakers, values)}, ensure_ascii=False)


def _shown(value: Any) -> str:
    """A value for a message, shortened."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # thousands of digits, or nested too deeply
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
