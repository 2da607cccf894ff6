"""Memory is taken again only when no tensor and no view of one lives in it."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from consistency_lens.activations.blocks.buffers import Buffers

CPU = torch.device("cpu")


def test_memory_is_taken_again_when_the_last_view_is_gone() -> None:
    buffers = Buffers(2)
    first = buffers.empty((4, 8), torch.float32, CPU)
    place, view = first.data_ptr(), first[1:, ::2]
    del first
    second = buffers.empty((4, 8), torch.float32, CPU)
    assert second.data_ptr() != place, "a view lives there"
    third = buffers.empty((4, 8), torch.float32, CPU)
    assert third.data_ptr() not in (place, second.data_ptr()) and len(buffers.arrays) == 2
    del view
    assert buffers.empty((9, 8), torch.bfloat16, CPU).data_ptr() == place, "another kind, a little larger"
    assert len(pickle.loads(pickle.dumps(buffers)).arrays) == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from([torch.float32, torch.float16, torch.uint8])), max_size=30),
    st.integers(1, 3),
    st.lists(st.integers(0, 4), min_size=30, max_size=30),
)
def test_no_two_tensors_share_a_byte(wanted: list[tuple[int, torch.dtype]], most: int, dropped: list[int]) -> None:
    buffers, alive = Buffers(most), []
    for number, (size, dtype) in enumerate(wanted):
        made = buffers.empty((size, 3), dtype, CPU)
        assert made.shape == (size, 3) and made.dtype == dtype
        made.fill_(number)
        alive.append((number, made))
        if dropped[number] < len(alive):
            alive.pop(dropped[number])
        del made
        assert all(bool((tensor == value).all()) for value, tensor in alive)
        assert len(buffers.arrays) <= most


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_nothing_takes_no_memory(shape: tuple[int, int]) -> None:
    buffers = Buffers()
    assert buffers.empty(shape, torch.float32, CPU).shape == shape and not buffers.arrays
