"""Threads that share a model do not see each other's hooks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny import padded_batch, tiny_lm

from consistency_lens.frozen import Edit


@pytest.fixture(autouse=True)
def eager_switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_results_in_many_threads_are_those_of_one() -> None:
    lm, batch = tiny_lm("llama"), padded_batch()
    values = [torch.randn(4, 32, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    works: list[Callable[[], torch.Tensor]] = [
        lambda: lm.logits(batch),
        lambda: lm.prefix(batch).logits(),
        lambda: lm.read(batch, "resid_post.1")["resid_post.1"],
        lambda: lm.read(batch, "mlp_in.3")["mlp_in.3"],
        *(lambda value=value: lm.logits(batch, Edit("resid_post.2", value)) for value in values),
        *(lambda value=value: lm.prefix(batch).logits(Edit("mlp_out.1", value, mode="add")) for value in values),
    ]
    alone = [work() for work in works]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda i: works[i % len(works)](), range(10 * len(works))))
    for i, result in enumerate(together):
        assert torch.equal(result, alone[i % len(works)])
