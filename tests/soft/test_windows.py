"""Windows of neighbouring tokens, against lists."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from consistency_lens.soft.parts.windows import counts_of, means_over, window_of


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.one_of(st.integers(1, 12), st.floats(1, 9)))
def test_windows_are_runs_of_nearly_equal_length(lengths: list[int], rate: int | float) -> None:
    sizes = torch.tensor(lengths)
    slots, ratio = (rate, None) if isinstance(rate, int) else (None, rate)
    counts = counts_of(sizes, slots, ratio)
    width, count = max(lengths), int(counts.max())
    windows = window_of(sizes, counts, width)
    values = torch.randn(len(lengths), width, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(width) < sizes[:, None]
    means = means_over(values, windows, mask, count)
    for row, length in enumerate(lengths):
        own = windows[row, :length].tolist()
        found = [own.count(number) for number in range(int(counts[row]))]
        assert own == sorted(own) and sum(found) == length and min(found) >= 1 and max(found) - min(found) <= 1
        if slots is not None:
            assert len(found) == min(slots, length)
        else:
            assert length / len(found) <= rate or len(found) == length
        at = 0
        for number, size in enumerate(found):
            torch.testing.assert_close(means[row, number], values[row, at : at + size].mean(0))
            at += size
        assert not means[row, len(found) :].any()
