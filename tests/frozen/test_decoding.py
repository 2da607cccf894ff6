"""How the next token is chosen, against transformers' own filters and against the probabilities."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from consistency_lens.errors import BadInput
from consistency_lens.frozen import Decoding

VOCABULARY = 30


def random_logits(seed: int, rows: int = 3) -> torch.Tensor:
    return 3 * torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    top_k=st.integers(0, VOCABULARY + 2),
    top_p=st.sampled_from([0.05, 0.3, 0.7, 0.95, 1.0]),
)
def test_the_candidates_are_those_of_transformers(seed: int, temperature: float, top_k: int, top_p: float) -> None:
    logits = random_logits(seed)
    mine = Decoding(do_sample=True, temperature=temperature, top_k=top_k, top_p=top_p).candidates(logits)
    theirs = TemperatureLogitsWarper(temperature)(None, logits)
    theirs = TopKLogitsWarper(top_k)(None, theirs) if top_k else theirs
    theirs = TopPLogitsWarper(top_p)(None, theirs) if top_p < 1 else theirs
    torch.testing.assert_close(mine, theirs)
    assert mine.isfinite().any(-1).all()


def test_draws_have_the_probabilities_of_the_candidates() -> None:
    rows = 20_000
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    decoding = Decoding(do_sample=True, top_k=3, temperature=1.5, seed=4)
    drawn = decoding.choose(2, logits.expand(rows, -1), range(rows))
    shares = torch.bincount(drawn, minlength=4) / rows
    torch.testing.assert_close(shares, decoding.candidates(logits)[0].softmax(-1), atol=0.012, rtol=0)
    assert shares[3] == 0


def test_a_draw_depends_on_seed_step_and_row_alone() -> None:
    logits = torch.zeros(6, 1000)
    decoding = Decoding(do_sample=True, seed=1)
    all_rows = decoding.choose(0, logits, range(6))
    assert decoding.choose(0, logits[:2], [4, 1]).tolist() == [all_rows[4], all_rows[1]]
    others = [decoding.choose(1, logits, range(6)), Decoding(do_sample=True, seed=2).choose(0, logits, range(6))]
    for other in others:
        assert (other != all_rows).all()
    assert len(set(all_rows.tolist())) == 6


def test_without_sampling_the_likeliest_is_taken() -> None:
    logits = random_logits(0)
    assert torch.equal(Decoding(seed=3).choose(5, logits, range(3)), logits.argmax(-1))


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens", "at least one token"),
        ({"min_new_tokens": 33}, "min_new_tokens", "which is max_new_tokens"),
        ({"min_new_tokens": -1}, "min_new_tokens", "0 to 32"),
        ({"do_sample": True, "temperature": 0.0}, "temperature", "do_sample=False"),
        ({"do_sample": True, "temperature": float("nan")}, "temperature", "positive number"),
        ({"do_sample": True, "top_k": -1}, "top_k", "0 for all"),
        ({"do_sample": True, "top_p": 0.0}, "top_p", "probability above 0"),
        ({"do_sample": True, "top_p": 1.1}, "top_p", "probability above 0"),
        ({"temperature": 0.7}, "temperature", "Set do_sample=True"),
        ({"top_k": 5}, "top_k", "Set do_sample=True"),
        ({"top_p": 0.9}, "top_p", "Set do_sample=True"),
        ({"stop_strings": ["\n", ""]}, "stop_strings", "every text has it"),
        ({"stop_strings": ""}, "stop_strings", "every text has it"),
    ],
)
def test_what_cannot_be_chosen_by_is_refused(fields: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        Decoding(**fields)
    assert caught.value.field == field


def test_one_stop_string_needs_no_list() -> None:
    assert Decoding(stop_strings="\n") == Decoding(stop_strings=("\n",))
