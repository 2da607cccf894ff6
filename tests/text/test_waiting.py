"""Nothing in a rollout waits for the device, and the head is one product for all rows.

A device is waited for where one of its numbers is asked for (`bool`, `item`, `tolist`, sizes that depend on values),
or where a tensor is made of a list and brought to it.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lens_runs import stirred, tiny_lens
from tiny import tiny_lm
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from consistency_lens.text.modeling import ConsistencyLens
from consistency_lens.text.parts.generation import Noise

WORDS = 101  # no other product has this width
WAITS = ("_local_scalar_dense", "lift_fresh", "nonzero", "unique", "masked_select", "item", "repeat_interleave")


class Calls(TorchDispatchMode):
    """What is called inside, and the shape of what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, tuple[int, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        shape = tuple(found.shape) if isinstance(found, Tensor) else ()
        if shape == (0,):  # a cache that is empty yet: there is nothing to bring
            return found
        self.seen.append((func.overloadpacket.__name__, shape))
        return found

    @property
    def waits(self) -> list[str]:
        return [name for name, _ in self.seen if name.startswith(WAITS)]

    @property
    def products(self) -> list[tuple[str, tuple[int, ...]]]:
        """Those with the head."""
        return [(name, shape) for name, shape in self.seen if name in ("mm", "addmm", "bmm") and WORDS in shape[-1:]]


@pytest.fixture(
    params=["llama", "gpt2", "qwen3"]
)  # the cache of a sliding window brings the window's size to the device
def lens(request: pytest.FixtureRequest) -> ConsistencyLens:
    lens = stirred(tiny_lens(tiny_lm(request.param, vocab_size=WORDS), trainable="lora"))
    lens.decoder.write(torch.zeros(2, 32), Noise(0))  # its constants are made
    return lens


ACTIVATIONS = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))


def test_a_rollout_waits_for_nothing(lens: ConsistencyLens) -> None:
    with Calls() as calls:
        words = lens.decoder.write(ACTIVATIONS, Noise(1))
        assert isinstance(words.distinct, Tensor)
    assert not calls.waits
    assert [shape for _, shape in calls.products] == [(6, WORDS)] * lens.config.code_length


def test_the_head_is_one_product_for_all_rows(lens: ConsistencyLens) -> None:
    words = lens.decoder.write(ACTIVATIONS, Noise(1))
    with Calls() as calls:
        lens.decoder.score(ACTIVATIONS, words)
    assert calls.products == [(calls.products[0][0], (6 * lens.config.code_length, WORDS))]
    assert calls.products[0][0] != "bmm"


@pytest.mark.gpu
def test_a_rollout_on_a_gpu_waits_for_nothing() -> None:
    lens = stirred(tiny_lens(tiny_lm(), trainable="lora"))
    activations = ACTIVATIONS.to("cuda")
    lens.to("cuda").decoder.write(activations, Noise(0))
    torch.cuda.set_sync_debug_mode("error")
    try:
        lens.decoder.write(activations, Noise(1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
