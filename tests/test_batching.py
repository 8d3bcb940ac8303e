"""Items of different length are grouped whole and near in length; a batch without memory is halved."""

import pytest
import torch

from modules.batching import group_by_length, halve_on_out_of_memory


def test_groups_hold_every_item_once_within_budget_and_ratio():
    lengths = [7, 1, 9, 10, 2, 100, 10]
    groups = group_by_length(lengths, budget=30, ratio=1.5)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        sizes = [lengths[index] for index in group]
        assert len(group) == 1 or (max(sizes) * len(group) <= 30 and max(sizes) <= 1.5 * min(sizes))
    assert groups == [[1], [4], [0, 2, 3], [6], [5]]


def test_a_budget_of_nothing_takes_items_one_by_one():
    assert group_by_length([3, 2], budget=0) == [[1], [0]]


def test_a_batch_without_memory_is_halved_down_to_single_items():
    halved = []

    def run(items):
        if len(items) > 2:
            raise torch.OutOfMemoryError
        return [item * 10 for item in items]

    assert halve_on_out_of_memory(run, [1, 2, 3, 4, 5], halved.append) == [10, 20, 30, 40, 50]
    assert halved == [[1, 2, 3, 4, 5], [3, 4, 5]]


def test_a_single_item_without_memory_fails():
    def run(items):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        halve_on_out_of_memory(run, [1, 2])
