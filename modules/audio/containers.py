"""Where the samples of wav, rf64, w64, aiff, au and caf files lie, and where joined Ogg streams begin.

Headers are compared with the file: programs that cannot seek back, that were killed or that wrote more than 4 GB leave
sizes in them which are not true, and libsndfile believes them. Decoding is for `modules/audio/decoding.py`.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

_W64_LAYOUT = "<16sQ"  # Sony's chunks: a name of 16 bytes, and a size that counts the header
_ALIGNMENT = {"<4sI": 2, ">4sI": 2, _W64_LAYOUT: 8, ">4sq": 1, "": 1}  # of wav, aiff, w64, caf, and au without chunks
_MOST_CHUNKS = 10_000  # gigabytes of zeros would read as hundreds of millions of empty chunks
_TAGS = (b"TAG", b"ID3", b"APETAGEX")  # of mp3 files; some programs append them to others
_ID3 = re.compile(rb"ID3[\2-\4]..([\0-\x7f]{4})", re.DOTALL)  # its size in groups of 7 bits
_NOTICE = re.compile(rb"([\t\n\r -~]*\0+)?")  # what an au file says about itself in front of its samples
_NAMES = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"_PMX", b"JUNK", b"afsp", b"cue ", b"smpl", b"list")


@dataclass(frozen=True)
class Part:
    """One container of uncompressed samples; joined files hold several. Positions and sizes are bytes."""

    start: int  # of the container
    first: int  # of the samples
    announced: int | None  # size of the samples by the header; None where it leaves that open
    stop: int  # where the samples end in truth
    end: int  # where the next container begins, or the file ends

    @property
    def agrees(self) -> bool:
        """Whether the header's size is the true one."""
        return self.announced == self.stop - self.first


def find_parts(file: BinaryIO, size: int) -> list[Part]:
    """The containers of a file, in order; none where it is of another kind or no samples can be found in it.

    A tag of mp3 files that some program put in front is passed over.
    """
    parts, at = [], 0
    file.seek(0)
    if tag := _ID3.match(file.read(10)):
        at = 10 + sum(size << 7 * place for place, size in enumerate(reversed(tag[1])))
    while at < size and (part := _find_part(file, at, size)) is not None:
        parts.append(part)
        at = part.end
    return parts


def _find_part(file: BinaryIO, start: int, size: int) -> Part | None:
    found = _announced(file, start, size)
    if found is None:
        return None
    first, announced, layout = found
    stop = first + (announced or 0)
    if announced is None or stop > size:
        return Part(start, first, announced, max(first, size), size)
    alignment = _ALIGNMENT[layout]
    padded = first + -(-announced // alignment) * alignment
    file.seek(stop)
    is_padding = not file.read(padded - stop)[1:].strip(b"\0")  # a single byte is no sample
    for behind in (padded, stop) if is_padding else ():  # some writers leave the padding out
        if (end := _end_of_chunks(file, behind, size, layout)) is not None:
            return Part(start, first, announced, stop, end)
    return Part(start, first, announced or None, max(first, size), size)


def _announced(file: BinaryIO, start: int, size: int) -> tuple[int, int | None, str] | None:
    """(where the samples start, their size by the header or None, layout of the chunks)."""
    file.seek(start)
    head = file.read(40)
    kind, form = head[:4], head[8:12]
    if kind in (b"RIFF", b"RF64", b"BW64", b"RIFX") and form == b"WAVE":
        layout, at, wanted = ">4sI" if kind == b"RIFX" else "<4sI", 12, b"data"
    elif kind == b"FORM" and form in (b"AIFF", b"AIFC"):
        layout, at, wanted = ">4sI", 12, b"SSND"
    elif kind == b"riff" and head[24:28] == b"wave":
        layout, at, wanted = _W64_LAYOUT, 40, b"data"
    elif kind == b"caff":
        layout, at, wanted = ">4sq", 8, b"data"
    elif kind in (b".snd", b"dns.") and len(head) >= 24:
        first, announced = struct.unpack(">II" if kind == b".snd" else "<II", head[4:12])
        file.seek(start + 24)
        notice = file.read(min(max(0, first - 24), size))
        if first < 24 or len(notice) < first - 24 or not _NOTICE.fullmatch(notice):
            return start + 24, None, ""  # these are samples
        return start + first, _known(announced), ""
    else:
        return None
    large = None  # above 4 GB the data chunk of a wav says 0xFFFFFFFF, and a ds64 chunk in front of it the true size
    for name, length, content in _chunks(file, size, layout, start + at):
        if name == b"ds64":
            file.seek(content)
            _, large = struct.unpack("<QQ", file.read(16).ljust(16, b"\0"))
        elif name.startswith(wanted):
            if large is not None and length == 0xFFFFFFFF:
                length = large
            skipped = 4 if wanted == b"data" and kind == b"caff" else 0  # an edit count
            if wanted == b"SSND":
                file.seek(content)
                offset = struct.unpack(">I", file.read(8)[:4].ljust(4, b"\0"))[0]
                skipped = 8 if offset > size or file.read(offset).strip(b"\0") else 8 + offset
            announced = _known(length)
            return content + skipped, announced and max(announced - skipped, 0), layout
    return None


def _known(size: int) -> int | None:
    """A size by a header, or None for what stands there when it was not known: 0x7ffff000, 0x80000000, all ones, ..."""
    is_open = size < 0 or 0x7FFF0000 <= size <= 0x8000FFFF or 0xFFFF0000 <= size <= 0xFFFFFFFF or size >= 1 << 46
    return None if is_open else size


def _chunks(file: BinaryIO, size: int, layout: str, at: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, length, where its content starts) of each chunk."""
    header = struct.calcsize(layout)
    for _ in range(_MOST_CHUNKS):
        if at + header > size:
            return
        file.seek(at)
        name, length = struct.unpack(layout, file.read(header))
        if layout == _W64_LAYOUT:
            length -= header
        yield name, length, at + header
        at += header + -(-max(length, 0) // _ALIGNMENT[layout]) * _ALIGNMENT[layout]


def _end_of_chunks(file: BinaryIO, at: int, size: int, layout: str) -> int | None:
    """Where the chunks from `at` on end: at the next container or the file's end; None where they are no chunks."""
    if at >= size:
        return size
    file.seek(at)
    if file.read(8).startswith(_TAGS):
        return size
    if _announced(file, at, size) is not None:
        return at
    end = None
    for name, length, content in _chunks(file, size, layout, at) if layout else ():
        if end is not None and _announced(file, start := content - struct.calcsize(layout), size) is not None:
            return start
        if not re.fullmatch(rb"[ -~]{4}", name[:4]):
            return None
        end = content + length
        if end > size:  # a chunk that lost its end
            return size if name.startswith(_NAMES) else None
    return None if end is None else size


@dataclass
class OggPages:
    """What the pages of an Ogg file say."""

    links: list[tuple[int, int]]  # where each of the joined streams begins and ends
    is_whole: bool = True  # the last page is all there
    is_marked: bool = False  # the last page says that it is the last
    damage: list[int] = field(default_factory=list)  # where pages are damaged, or missing before


def find_pages(file: BinaryIO, size: int) -> OggPages:
    """Walks the pages of an Ogg file.

    A page is 27 bytes (kind at 5, stream at 14, its number at 18, checksum at 22), a table of sizes and what they add
    up to. The first pages of streams come before all others, so a first page behind another one begins a joined stream.
    """
    pages, starts, at, was_first, numbers = OggPages([]), [], 0, False, {}
    while 0 <= at < size - 27:
        file.seek(at)
        head = file.read(27 + 255)
        if head[:4] != b"OggS":
            pages.damage.append(at)
            at = _search(file, b"OggS", at, size)
            continue
        is_first = bool(head[5] & 2)
        if is_first and not was_first:
            starts.append(at)
        was_first, pages.is_marked = is_first, bool(head[5] & 4)
        stream, number, checksum = struct.unpack("<III", head[14:26])
        if not is_first and number != (numbers.get(stream, number - 1) + 1) & 0xFFFFFFFF:
            pages.damage.append(at)
        numbers[stream] = number
        end = at + 27 + head[26] + sum(head[27 : 27 + head[26]])
        pages.is_whole = end <= size
        file.seek(at)
        content = file.read(end - at)
        if pages.is_whole and _ogg_checksum(content[:22] + bytes(4) + content[26:]) != checksum:
            pages.damage.append(at)
            inside = content.find(b"OggS", 4)  # where its sizes are the damage
            end = at + inside if inside > 0 else end
        at = end
    pages.links = [(start, stop) for start, stop in zip(starts, [*starts[1:], size])]
    return pages


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_checksum(page: bytes) -> int:
    """Ogg's CRC-32: zlib's polynomial with the bits of bytes and result the other way round, and nothing inverted."""
    return int(f"{zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF:032b}"[::-1], 2)


def find_flac(file: BinaryIO, size: int) -> list[int]:
    """Where the joined flac files begin: at their mark and the header of a first block of 34 bytes."""
    starts, at = [0], 1
    while (at := _search(file, rb"fLaC[\0\x80]\0\0\x22", at, size)) < size:
        starts.append(at)
        at += 1
    return starts


def _search(file: BinaryIO, pattern: bytes, at: int, size: int) -> int:
    """Where a pattern of at most 8 bytes is next found at or behind a position; the file's end where it is not."""
    while at < size:
        file.seek(at)
        block = file.read(1 << 20)
        if match := re.search(pattern, block):
            return at + match.start()
        at += max(1, len(block) - 7)
    return size
