"""Finds audio files that are shorter than their header says, which libsndfile reads without a warning.

Formats that compress (flac, mp3) show it while they are decoded and are not examined here.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from modules.errors import AudioError

_UNKNOWN_SIZES = (0, 0x7FFFFFFF, 0xFFFFFFFF)  # written by programs that cannot seek back to fill in the real size
_OGG_TAIL = 1 << 17  # an Ogg page is at most 65307 bytes, so the last one starts within this many bytes of the end
_OGG_END_OF_STREAM = 4
_W64_LAYOUT = "<16sQ"  # Sony's chunks: a name of 16 bytes, and a size that counts the header
_MOST_CHUNKS = 10_000  # gigabytes of zeros would read as hundreds of millions of empty chunks


def refuse_truncated(path: Path) -> None:
    """Raises AudioError where a wav, rf64, w64, aiff, au, caf or ogg file is shorter than it announces."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            announced, start = _announced(file, size)
            whole = not announced or announced <= size - start
            if whole and not _ogg_is_whole(file, size):
                raise AudioError(f"{path}: truncated: the end of the stream is missing")
    except (OSError, struct.error):
        return  # opening it properly gives the better message
    if not whole:
        share = 100 * max(0, size - start) // announced
        raise AudioError(f"{path}: truncated: only {share} % of the samples it announces are there")


def _announced(file: BinaryIO, size: int) -> tuple[int, int]:
    """(bytes of samples announced, or 0 where unknown; where they start)."""
    head = file.read(40)
    kind, form = head[:4], head[8:12]
    if kind in (b"RIFF", b"RF64", b"BW64") and form == b"WAVE":
        return _samples(file, size, "<4sI", 12, b"data")
    if kind == b"FORM" and form in (b"AIFF", b"AIFC"):
        return _samples(file, size, ">4sI", 12, b"SSND")
    if kind == b"riff" and head[24:28] == b"wave":
        return _samples(file, size, _W64_LAYOUT, 40, b"data", alignment=8)
    if kind == b"caff":
        return _samples(file, size, ">4sq", 8, b"data", alignment=1)
    if kind in (b".snd", b"dns."):
        start, announced = struct.unpack(">II" if kind == b".snd" else "<II", head[4:12])
        return (0 if announced in _UNKNOWN_SIZES else announced), start
    return 0, 0


def _samples(file: BinaryIO, size: int, layout: str, first: int, wanted: bytes, alignment: int = 2) -> tuple[int, int]:
    large = 0  # above 4 GB the data chunk of a wav says 0xFFFFFFFF, and a ds64 chunk in front of it the true size
    for name, length, start in _chunks(file, size, layout, first, alignment):
        if name == b"ds64":
            file.seek(start)
            _, large = struct.unpack("<QQ", file.read(16))
        if name.startswith(wanted):
            return (large if length < 0 or length in _UNKNOWN_SIZES else length), start
    return 0, 0


def _chunks(file: BinaryIO, size: int, layout: str, first: int, alignment: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, length, where its content starts) of each chunk."""
    at, header = first, struct.calcsize(layout)
    for _ in range(_MOST_CHUNKS):
        if at + header > size:
            return
        file.seek(at)
        name, length = struct.unpack(layout, file.read(header))
        if layout == _W64_LAYOUT:
            length -= header
        yield name, length, at + header
        at += header + -(-max(length, 0) // alignment) * alignment


def _ogg_is_whole(file: BinaryIO, size: int) -> bool:
    """Whether the last page says that it is the last and is all there; true for files that are not Ogg."""
    file.seek(0)
    if file.read(4) != b"OggS":
        return True
    file.seek(max(0, size - _OGG_TAIL))
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or not page[5] & _OGG_END_OF_STREAM:
        return False
    sizes = page[27 : 27 + page[26]]  # lengths of the page's segments; they follow the table
    return len(page) >= 27 + page[26] + sum(sizes)
