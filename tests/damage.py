"""Files that must be refused: those that want to run something, and damage that a file's checksums must show."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Payload:
    """Pickles into a call."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


def flip_a_bit(path: Path) -> None:
    """Flips one bit in the middle of the largest tensor of a `.pth` archive.

    The middle of the whole file will not do: it may be padding between two members, which no checksum covers
    and nobody reads.
    """
    with zipfile.ZipFile(path) as archive:
        tensors = [entry for entry in archive.infolist() if "/data/" in entry.filename]
    member = max(tensors, key=lambda entry: entry.compress_size)
    data = bytearray(path.read_bytes())
    name_length, extra_length = (
        int.from_bytes(data[member.header_offset + at : member.header_offset + at + 2], "little") for at in (26, 28)
    )
    data[member.header_offset + 30 + name_length + extra_length + member.compress_size // 2] ^= 16
    path.write_bytes(data)
