"""What a checkpoint says of itself, read without torch and without its tensors, for pages that list voices."""

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

from modules.errors import FAILURES

CARD_KEY = "card"  # of a checkpoint: what the voice is
RANGES = "ranges"  # of a card: speaker to what `VoiceRange.to_plain` gives
MOST_PICKLED = 1 << 24  # bytes of settings and names in a zip; more is an attack on the memory

# What damaged bytes raise in an unpickler.
_BROKEN = (
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    EOFError,
    ImportError,
    RuntimeError,
    AssertionError,
    struct.error,
)


class _Absent:
    """Stands where a tensor or another object would be, and takes whatever is done to it."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, *_: Any) -> None: ...


class _PlainUnpickler(pickle._Unpickler):  # written in Python: the other one takes 16 GB for a number in five bytes
    """Reads plain values; whatever a name stands for is absent, and nothing is run."""

    def find_class(self, module: str, name: str) -> type[_Absent]:
        return _Absent

    def persistent_load(self, pid: Any) -> None:
        return None


def peek_card(path: Path) -> dict[str, Any]:
    """The card of a `.pth` file in torch's zip layout; nothing where there is none or the file cannot be read, which
    whoever needs it says. It is not compared with its checksum: for show only, `read_card` verifies."""
    try:
        with zipfile.ZipFile(path) as archive:
            (member,) = (one for one in archive.infolist() if one.filename.endswith("/data.pkl"))
            if member.file_size > MOST_PICKLED or member.compress_type != zipfile.ZIP_STORED:
                return {}
            with archive.open(member) as file:
                content = _PlainUnpickler(file).load()
    except (*FAILURES, zipfile.BadZipFile, pickle.UnpicklingError, *_BROKEN):
        return {}
    card = content.get(CARD_KEY) if isinstance(content, dict) else None
    return card if isinstance(card, dict) else {}
