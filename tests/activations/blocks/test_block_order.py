"""The order of tokens is a pure function of seed and epoch, in which each token comes once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consistency_lens.activations.blocks.order import WindowOrder
from consistency_lens.errors import BadInput


def whole(order: WindowOrder, epoch: int) -> list[tuple[int, int]]:
    """The slow twin: every (block, token) of an epoch, one by one."""
    found = []
    windows, starts = order.epoch(epoch)
    for number, blocks in enumerate(windows):
        tokens = [(int(block), token) for block in blocks for token in range(order.sizes[block])]
        assert len(tokens) == starts[number + 1] - starts[number]
        found += [tokens[i] for i in order.within(epoch, number, len(tokens))]
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.integers(0, 2**40),
    st.integers(1, 5),
    st.integers(0, 3),
)
def test_each_token_comes_once_and_always_at_the_same_place(
    sizes: list[int], seed: int, blocks_per_window: int, epoch: int
) -> None:
    order = WindowOrder(sizes, seed, blocks_per_window)
    found = whole(order, epoch)
    assert sorted(found) == [(block, token) for block, size in enumerate(sizes) for token in range(size)]
    assert len(order) == len(found)
    assert found == whole(WindowOrder(sizes, seed, blocks_per_window), epoch)
    windows, starts = order.epoch(epoch)
    counts = [len(window) for window in windows]
    assert max(counts) <= blocks_per_window and max(counts) - min(counts) <= 1
    places = np.arange(len(order))
    assert (order.epoch(epoch).find(places) == [int((starts[1:] <= place).sum()) for place in places]).all()


def test_epochs_seeds_and_windows_have_orders_of_their_own() -> None:
    order = WindowOrder([50] * 6, 0, 3)
    orders = [whole(order, 0), whole(order, 1), whole(WindowOrder([50] * 6, 1, 3), 0)]
    assert all(orders[i] != orders[j] for i in range(3) for j in range(i))
    assert (order.within(0, 0, 150) != order.within(0, 1, 150)).any()
    first = orders[0][:150]
    mixed = sum(a[0] != b[0] for a, b in pairwise(first))
    assert mixed > 75, "tokens of the blocks of a window lie among each other"


def test_a_window_needs_a_block() -> None:
    with pytest.raises(BadInput, match="blocks_per_window=0"):
        WindowOrder([3], 0, 0)
