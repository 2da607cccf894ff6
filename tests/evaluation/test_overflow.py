"""A report in which no KL is a number says what was not finite, where, and what to do; a card is never begun."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from fake_lenses import SITE, VectorCode, VectorLens
from lens_runs import tiny_rows
from tiny import shared_lm

from consistency_lens.errors import BadInput
from consistency_lens.evaluation import HeldOut, Report, VectorReport, evaluate
from consistency_lens.evaluation.about import LENS
from consistency_lens.evaluation.bootstrap import Records
from consistency_lens.evaluation.overflow import require_finite


class Overflowing(VectorLens):
    """Restores one value, whatever it reads."""

    value = torch.nan

    def compress(self, batch: Mapping[str, Any], seed: int | None = None) -> VectorCode:
        return VectorCode(torch.full_like(batch["activations"][SITE].float(), self.value))


def judged(lens: VectorLens) -> Report:
    held_out = HeldOut(horizon=0, batch_size=16, max_rows=16)
    return evaluate(lens, shared_lm("llama"), tiny_rows(), VectorReport(), held_out, progress=False)


def test_what_is_not_finite_in_the_lens_is_named() -> None:
    lens = Overflowing(shared_lm("llama"), tiny_rows().mean(SITE))
    with pytest.raises(BadInput, match=r"what it restores at resid_post\.1 is not finite, on every row"):
        judged(lens)


def test_a_lens_that_is_finite_is_judged_as_before() -> None:
    assert "kl" in judged(VectorLens(shared_lm("llama"), tiny_rows().mean(SITE), share=0.5)).parts["all"].numbers[LENS]


def records(**finite: bool) -> Records:
    found = Records()
    nan = torch.full((4,), torch.nan)
    for name, known in finite.items():
        code, _, measure = name.partition("_")
        found.add(code, {measure or "kl": torch.zeros(4) if known else nan})
    return found


@pytest.mark.parametrize(
    ("finite", "dtype", "said", "fix"),
    [
        ({"self": False, "lens": False}, torch.float16, "the logits of the model itself", "bfloat16 or float32"),
        ({"self": False, "lens": False}, torch.float32, "the logits of the model itself", "damaged"),
        (
            {"self": True, "lens": False, "lens_squared_error": False},
            torch.float32,
            "what it restores at",
            "checkpoint",
        ),
        ({"self": True, "lens": False, "lens_squared_error": True}, torch.float16, "in its place", "in float32"),
    ],
)
def test_the_cause_decides_what_to_do(finite: dict[str, bool], dtype: torch.dtype, said: str, fix: str) -> None:
    with pytest.raises(BadInput) as caught:
        require_finite(records(**finite), [SITE], dtype)
    assert said in caught.value.why and fix in caught.value.fix and "\n" not in str(caught.value)


def test_a_single_row_with_a_number_is_a_report() -> None:
    some = records(self=True)
    some.add(LENS, {"kl": torch.tensor([torch.nan, 0.5])})
    require_finite(some, [SITE], torch.float32)
