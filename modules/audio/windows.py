"""How something long is cut into windows for a network, so that memory does not grow with its length. Any unit."""

import math
from collections.abc import Callable
from typing import Any


def plan_windows(
    length: int, longest: int, context: int, grid: int = 1, equal: bool = False
) -> list[tuple[slice, slice]]:
    """Windows with context: what to read of the whole, and what to keep of the result for it.

        whole    |--------------------------------------------------------------|
        windows  |================.....|
                             .....|================.....|
                                              .....|======================|      = kept   . context, dropped

    Slices of the whole, and slices of each of them; what is kept, laid end to end, is the whole.

    Args:
        longest: most that a window reads; a whole of that length is one window.
        grid: windows start at multiples of it; `longest` and `context` are rounded to it.
        equal: all windows are exactly `longest`, the last one moved to the left, so that a network meets one length.
    """
    if length <= longest:
        return [(slice(0, length), slice(0, length))]
    step, context = (max(1, round(size / grid)) * grid for size in (longest - 2 * context, context))
    longest = step + 2 * context
    windows, done = [], 0
    while done < length:
        start = max(0, done - context)
        stop = min(length, (start if equal else done - context) + longest)
        start = stop - longest if equal else start
        end = length if stop == length else stop - context
        windows.append((slice(start, stop), slice(done - start, end - start)))
        done = end
    return windows


def plan_overlaps(length: int, longest: int, overlap: int) -> list[slice]:
    """Windows of nearly equal length for cross-fades: each shares `overlap` with the next."""
    count = max(1, math.ceil((length - overlap) / (longest - overlap)))
    share = (length - overlap) / count
    starts = [round(index * share) for index in range(count)]
    ends = [start + overlap for start in starts[1:]] + [length]
    return [slice(start, end) for start, end in zip(starts, ends, strict=True)]


def compute_in_windows(compute: Callable[[Any], Any], wav: Any, hop: int, longest: int, context: int) -> Any:
    """`compute(wav)`, (..., T // hop) of a tensor (T,), in windows as `plan_windows` cuts them, counted in frames."""
    n_frames = len(wav) // hop
    windows = plan_windows(n_frames, longest, context)
    if len(windows) == 1:
        return compute(wav)
    whole = None
    for read, keep in windows:
        part = compute(wav[read.start * hop : len(wav) if read.stop == n_frames else read.stop * hop])[..., keep]
        whole = part.new_empty(*part.shape[:-1], n_frames) if whole is None else whole
        start = read.start + keep.start
        whole[..., start : start + part.shape[-1]] = part
    return whole
