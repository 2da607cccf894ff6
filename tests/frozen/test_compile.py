"""Compiled blocks are read and edited like plain ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny import padded_batch, tiny_lm

from consistency_lens.frozen import Edit, FrozenLM

SIZE = 32
SITES = ("embed", "attn_out.0", "resid_mid.0", "mlp_in.1", "resid_post.0")
CASES = [
    ("llama", "aot_eager"),
    ("gemma3-window", "eager"),
    *[pytest.param((case, "aot_eager"), marks=pytest.mark.slow) for case in ("gpt2", "gemma3-window", "qwen2-window")],
]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module", params=CASES, ids=str)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[FrozenLM, FrozenLM]]:
    """The same model plain and compiled."""
    case, backend = request.param
    sizes = {"n_layer": 2} if case == "gpt2" else {"num_hidden_layers": 2}
    yield tiny_lm(case, **sizes), tiny_lm(case, **sizes).compile(backend=backend)
    torch._dynamo.reset()


def value_and_gradient(lm: FrozenLM, site: str, cheap: bool) -> tuple[torch.Tensor, torch.Tensor]:
    batch = padded_batch((6, 3, 1))
    value = torch.randn(3, SIZE, generator=torch.Generator().manual_seed(1)).requires_grad_()
    edit = Edit(site, value)
    logits = lm.prefix(batch).logits(edit) if cheap else lm.logits(batch, edit, keep=1)
    logits.square().sum().backward()
    return logits.detach(), value.grad


@pytest.mark.parametrize("cheap", [False, True])
def test_edits_and_their_gradients_are_the_same(pair: tuple[FrozenLM, FrozenLM], cheap: bool) -> None:
    plain, compiled = pair
    for site in SITES:
        for ours, theirs in zip(
            value_and_gradient(compiled, site, cheap), value_and_gradient(plain, site, cheap), strict=True
        ):
            torch.testing.assert_close(ours, theirs, **CLOSE)


def test_reading_is_the_same_and_clean_passes_come_back_clean(pair: tuple[FrozenLM, FrozenLM]) -> None:
    plain, compiled = pair
    batch = padded_batch((6, 3, 1))
    for ours, theirs in zip(compiled.read(batch, SITES).values(), plain.read(batch, SITES).values(), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)
    for _ in range(2):
        torch.testing.assert_close(compiled.logits(batch), plain.logits(batch), **CLOSE)
        compiled.logits(batch, Edit("resid_post.0", torch.ones(SIZE)))
        torch.testing.assert_close(compiled.prefix(batch).logits(), plain.logits(batch, keep=1), **CLOSE)


class Backend:
    """Runs what it is given as it is, and counts."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Any:
        self.graphs += 1
        return graph.forward


def test_compiled_a_second_time_the_last_options_hold() -> None:
    lm, batch = tiny_lm("llama", num_hidden_layers=1), padded_batch()
    first, second = Backend(), Backend()
    lm.compile(backend=first)
    lm.logits(batch)
    made = first.graphs
    lm.compile(backend=first)
    lm.logits(batch)
    assert made == first.graphs > 0, "nothing new was asked for"
    lm.compile(backend=second)
    lm.logits(batch)
    assert second.graphs > 0 and first.graphs == made
    torch._dynamo.reset()


def test_it_is_really_compiled_code_that_runs() -> None:
    lm = tiny_lm("llama", num_hidden_layers=1).compile(backend="eager")
    torch._dynamo.utils.counters.clear()
    lm.logits(padded_batch())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    torch._dynamo.reset()
