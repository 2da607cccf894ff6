"""Each sum over the vocabulary against the plain formula: values, gradients, and what it keeps and makes meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from consistency_lens import vocabulary
from consistency_lens.errors import BadInput
from consistency_lens.objectives import kl_of, top1_of

ROWS, TIMES, COLUMNS, WORDS = 5, 3, 4, 29


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).mul_(3).to(dtype).requires_grad_()


IDS = torch.randint(WORDS, (ROWS, COLUMNS), generator=torch.Generator().manual_seed(2))


# The slow twins: whole tensors in float32, and the gradient that autograd makes of them.


def slow_log_probability(logits: Tensor) -> Tensor:
    return logits.float().log_softmax(-1).gather(-1, IDS.unsqueeze(-1)).squeeze(-1)


def slow_kl(original: Tensor, edited: Tensor) -> Tensor:
    original = original.float().repeat_interleave(len(edited) // len(original), 0)
    log_p, log_q = original.log_softmax(-1), edited.float().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


PAIRS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "log_probability": (
        lambda logits: vocabulary.log_probability(logits, IDS),
        slow_log_probability,
        [(ROWS, COLUMNS, WORDS)],
    ),
    "kl": (vocabulary.kl, slow_kl, [(ROWS, COLUMNS, WORDS)] * 2),
    "kl of several": (vocabulary.kl, slow_kl, [(ROWS, COLUMNS, WORDS), (ROWS * TIMES, COLUMNS, WORDS)]),
    "kl of rows": (vocabulary.kl, slow_kl, [(ROWS, WORDS)] * 2),
}


@pytest.fixture(params=PAIRS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("part", [1, 2 * COLUMNS * WORDS, 2**23])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients_are_those_of_the_plain_formula(
    name: str, part: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "PART", part)
    fast, slow, shapes = PAIRS[name]
    given = [[random(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes)] for _ in range(2)]
    ours, theirs = fast(*given[0]), slow(*given[1])
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(9))
    (ours * upstream).sum().backward()
    (theirs * upstream).sum().backward()
    for i, (one, other) in enumerate(zip(*given, strict=True)):
        assert torch.equal(one, random(*shapes[i], seed=i, dtype=dtype)) and one._version == other._version
        assert other.grad.abs().max() > 1e-2
        torch.testing.assert_close(one.grad, other.grad)


class Made(TorchDispatchMode):
    """The largest tensor in float32 that anything makes inside."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and found.dtype == torch.float32:
            self.largest = max(self.largest, found.numel())
        return found


def saved(work: Callable[[], Tensor]) -> tuple[Tensor, list[Tensor]]:
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return work(), kept


def test_nothing_of_the_size_of_the_logits_is_made_or_kept_beside_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "PART", COLUMNS * WORDS)
    fast, slow, shapes = PAIRS[name]
    size = max(torch.Size(shape).numel() for shape in shapes)
    bytes_kept = []
    for work, least, most in ((fast, 0, size // 2), (slow, size, size)):
        given = [random(*shape, seed=i, dtype=torch.bfloat16) for i, shape in enumerate(shapes)]
        known = {tensor.data_ptr() for tensor in given}
        with Made() as made:
            value, kept = saved(lambda work=work, given=given: work(*given))
            value.sum().backward()
        assert least <= made.largest <= max(most, TIMES * COLUMNS * WORDS)
        beside = [t for t in kept if t.data_ptr() not in known]
        bytes_kept.append(sum(t.numel() * t.element_size() for t in beside))
    rows = size // WORDS
    assert bytes_kept[0] <= 2 * 8 * rows and bytes_kept[1] >= 4 * size


def test_an_original_that_asks_for_no_gradient_gets_none() -> None:
    original, edited = random(ROWS, COLUMNS, WORDS).detach(), random(ROWS * TIMES, COLUMNS, WORDS, seed=1)
    vocabulary.kl(original, edited).sum().backward()
    assert original.grad is None and edited.grad is not None


def test_kl_of_logits_with_themselves_is_exactly_zero_also_where_words_are_barred() -> None:
    logits = random(ROWS, WORDS).detach()
    logits[:, 3] = torch.finfo(torch.float32).min
    logits.requires_grad_()
    kl = vocabulary.kl(logits, logits.detach())
    kl.sum().backward()
    assert torch.equal(kl, torch.zeros(ROWS)) and torch.equal(logits.grad, torch.zeros(ROWS, WORDS))


def test_rows_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(BadInput, match="edited='7 rows'"):
        kl_of(random(3, WORDS), random(7, WORDS))


def test_several_edited_rows_agree_with_their_original_each_by_itself() -> None:
    original, edited = torch.eye(2), torch.eye(2)[[0, 1, 1, 1]]
    assert top1_of(original, edited).tolist() == [1, 0, 1, 1]


def test_no_rows_have_no_values() -> None:
    none = random(0, COLUMNS, WORDS)
    for found in (
        vocabulary.log_probability(none, torch.zeros(0, COLUMNS, dtype=torch.long)),
        vocabulary.kl(none, random(0, COLUMNS, WORDS)),
    ):
        found.sum().backward()
        assert found.shape == (0, COLUMNS)
