"""Items of different length through a network at once: which go together, and what happens when memory runs out."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def group_by_length(lengths: Sequence[int], budget: float, ratio: float = float("inf")) -> list[list[int]]:
    """Positions of neighbours in length, shortest first; every position is in exactly one group.

    Args:
        budget: largest total length of a group, all padded to its longest; an item above it is alone.
        ratio: longest of a group over its shortest, at most.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[index]
        last = groups[-1] if groups else None
        if last and (len(last) + 1) * length <= budget and length <= ratio * lengths[last[0]]:
            last.append(index)
        else:
            groups.append([index])
    return groups


def halve_on_out_of_memory(
    run: Callable[[list[Item]], list[Result]],
    items: list[Item],
    on_halve: Callable[[list[Item]], None] = lambda items: None,
) -> list[Result]:
    """`run(items)`; where the GPU has no memory for it, `on_halve(items)` and then the same of each half."""
    try:
        return run(items)
    except torch.OutOfMemoryError:
        if len(items) == 1:
            raise
    # Outside the handler, whose exception would hold the tensors of the failed attempt.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    on_halve(items)
    middle = len(items) // 2
    return halve_on_out_of_memory(run, items[:middle], on_halve) + halve_on_out_of_memory(run, items[middle:], on_halve)
