"""A long take as clips: which take is long, what its clips are called, and how they are written.

Where a take is cut is for `modules/audio/cuts.py`.
"""

import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modules.audio.io import StreamWriter
from modules.audio.slicer import Segment
from modules.errors import UsageError
from modules.files import discard, partial_path, sha256_of

_LONGEST_NAME = 200  # bytes; file systems allow 255, and features add suffixes to a clip's name
_LONGEST_CLIP = 120  # seconds
WAV_HEADER = 44  # bytes, of a clip; then two for each sample


@dataclass(frozen=True)
class Made:
    """What one recording has become."""

    clips: dict[str, tuple[int, int, str]]  # by name: size, mtime in ns, SHA-256
    temporaries: dict[str, Path]  # where those clips lie that are not in their places yet
    seconds: float  # of the recording
    notes: tuple[str, ...] = ()  # what is unusual about it
    n_audible: int = 0  # cuts that are not where it is silent

    def clip_seconds(self, rate: int) -> float:
        """Of all clips, at that rate in Hz; the rest of the recording was silence."""
        return sum((size - WAV_HEADER) / 2 / rate for size, _, _ in self.clips.values())


def parse_lengths(text: str) -> tuple[float, float] | None:
    """`5-15` -> (5, 15), seconds of the shortest and the longest clip; `off` -> None."""
    if text == "off":
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)", text, re.ASCII)
    shortest, longest = map(float, match.groups()) if match else (0.0, 0.0)
    if not 1 <= shortest < longest <= _LONGEST_CLIP:
        expected = f"expected MIN-MAX in seconds, 1 <= MIN < MAX <= {_LONGEST_CLIP}, for example 5-15; or off"
        raise UsageError(f"--slice {text}: {expected}")
    return shortest, longest


def is_long(seconds: float, lengths: tuple[float, float] | None) -> bool:
    """Whether a take is cut: one that is a little longer than a clip may be is better left whole."""
    return lengths is not None and seconds > lengths[1] * 4 / 3


def clip_name(stem: str, ending: str = ".wav") -> str:
    """Both together; what is too long for the files made from it later is cut and gets a hash."""
    room = _LONGEST_NAME - len(ending.encode())
    if len(stem.encode()) <= room:
        return stem + ending
    digest = hashlib.sha256(stem.encode()).hexdigest()[:8]
    return f"{stem.encode()[: room - 9].decode(errors='ignore')}-{digest}{ending}"


def numbered_names(stem: str, count: int) -> list[str]:
    """`TAKE_001.wav`, `TAKE_002.wav`, ...; with more digits where there are more than 999."""
    digits = max(3, len(str(count)))
    return [clip_name(stem, f"_{number:0{digits}}.wav") for number in range(1, count + 1)]


def write_clips(
    blocks: Iterable[np.ndarray], segments: Sequence[Segment], target: Path, rate: int, check: Callable[[], None]
) -> tuple[dict[str, tuple[int, int, str]], dict[str, Path]]:
    """Writes the voiced segments of a take to temporary names; returns `Made.clips` and `Made.temporaries`.

    `target` is what the take would be called as one clip; `check` is called at the end and may raise: then none stays.
    """
    names = iter(numbered_names(target.stem, sum(segment.voiced for segment in segments)))
    temporaries: dict[str, Path] = {}
    try:
        for segment, pieces in itertools.groupby(_pieces(blocks, segments), key=lambda piece: piece[0]):
            if segment.voiced:
                name = next(names)
                temporaries[name] = partial_path(target.with_name(name))
                with StreamWriter(temporaries[name], rate, "wav") as writer:
                    for _, piece in pieces:
                        writer.write(piece)
        check()
        return {name: output_of(path) for name, path in temporaries.items()}, temporaries
    except BaseException:
        for path in temporaries.values():
            discard(path)
        raise


def output_of(path: Path) -> tuple[int, int, str]:
    """Size, mtime in ns and SHA-256 of a file."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, sha256_of(path)


def _pieces(blocks: Iterable[np.ndarray], segments: Sequence[Segment]) -> Iterator[tuple[Segment, np.ndarray]]:
    """The blocks cut where segments end, each piece with its segment."""
    at, rest = 0, iter(segments)
    segment = next(rest)
    for block in blocks:
        while len(block):
            if at == segment.end:
                segment = next(rest)
            piece, block = np.split(block, [segment.end - at])
            yield segment, piece
            at += len(piece)
