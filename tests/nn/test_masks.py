"""Masks mark the real frames, and windows lie inside them."""

import torch

from modules.nn.masks import random_starts, sequence_mask, slice_frames


def test_a_mask_is_true_at_the_first_frames_only():
    assert sequence_mask(torch.tensor([3, 0, 4]), 4).long().tolist() == [[[1, 1, 1, 0]], [[0] * 4], [[1] * 4]]


def test_windows_cover_every_place_inside_an_item_and_none_outside():
    lengths = torch.tensor([5, 8, 3])
    seen = [set(), set(), set()]
    for _ in range(200):
        for places, start in zip(seen, random_starts(lengths, 4).tolist()):
            places.add(start)
    assert seen == [{0, 1}, {0, 1, 2, 3, 4}, {0}]


def test_a_window_holds_the_frames_from_its_start():
    x = torch.arange(24).view(2, 1, 12)
    assert slice_frames(x, torch.tensor([2, 9]), 3).tolist() == [[[2, 3, 4]], [[21, 22, 23]]]
    assert slice_frames(x[:, 0], torch.tensor([0, 1]), 2).tolist() == [[0, 1], [13, 14]]
