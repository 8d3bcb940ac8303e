"""Giving freed memory back to the system."""

import ctypes
import sys
from collections.abc import Callable
from functools import cache


def return_freed_memory() -> None:
    """Makes the C library hand its free pages back, where it is glibc; does nothing elsewhere.

    Stretches differ in length, so glibc's heap fills with gaps that the next stretch does not fit in. Measured over
    five hours of audio in 30 s stretches: 290 MB of growth without this call, 30 MB with it.
    """
    trim = _find_trim()
    if trim is not None:
        trim(0)


@cache
def _find_trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
