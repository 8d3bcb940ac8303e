"""Every window is short, starts on the grid, and what is kept of all is the whole, once."""

from itertools import pairwise

import numpy as np
import pytest

from modules.audio.windows import plan_overlaps, plan_windows


@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("longest, context, grid", [(50, 5, 1), (448, 15, 1), (4000, 800, 32), (6000, 200, 160)])
def test_what_is_kept_is_the_whole(longest, context, grid, equal):
    if equal and grid > 1:
        pytest.skip("the last of equal windows is not on a grid")
    for length in (1, longest, longest + 1, longest + context, 2 * longest - 2 * context, 9 * longest + 77):
        windows = plan_windows(length, longest, context, grid, equal)
        kept = np.concatenate([np.arange(length)[read][keep] for read, keep in windows])
        np.testing.assert_array_equal(kept, np.arange(length))
        assert all(read.stop - read.start <= longest + 2 * grid for read, _ in windows)
        assert (len(windows) == 1) == (length <= longest)
        for read, keep in windows[1:]:
            assert read.start % grid == 0 and keep.start >= context - grid / 2
        for read, keep in windows[:-1]:
            assert read.stop - read.start - keep.stop >= context - grid / 2
        assert not equal or length <= longest or {read.stop - read.start for read, _ in windows} == {longest}


def test_equal_windows_move_the_last_one_to_the_left():
    assert plan_windows(861, 448, 15, equal=True) == [
        (slice(0, 448), slice(0, 433)),
        (slice(413, 861), slice(20, 448)),
    ]


@pytest.mark.parametrize("length", [1, 49, 50, 500, 501, 950, 951, 12345])
def test_overlaps_are_exact_and_windows_about_equal(length):
    windows = plan_overlaps(length, longest=500, overlap=50)
    assert windows[0].start == 0 and windows[-1].stop == length
    assert all(before.stop - after.start == 50 for before, after in pairwise(windows))
    sizes = [window.stop - window.start for window in windows]
    assert max(sizes) <= 500 and max(sizes) - min(sizes) <= 1
