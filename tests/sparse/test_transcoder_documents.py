"""Codes of whole documents, and a text token by token, against the same written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import shared_lm
from transcoder_runs import transcoder

from consistency_lens.errors import BadInput
from consistency_lens.sparse.coding.documents import DocumentCode, sums_of
from consistency_lens.sparse.report.fidelity import explained_variance, spread_of, sums_and_squares
from consistency_lens.sparse.training.data import Collator

LENGTHS = [3, 7, 5]


def batch_of() -> dict[str, torch.Tensor]:
    ids = [torch.randint(4, 90, (n,), generator=torch.Generator().manual_seed(n)) for n in LENGTHS]
    return Collator(0)([{"doc_id": torch.tensor(i), "input_ids": row} for i, row in enumerate(ids)])


def test_a_document_has_the_features_that_it_has_alone() -> None:
    lens, batch = transcoder().eval(), batch_of()
    code = lens.compress(batch)
    assert isinstance(code, DocumentCode) and len(code) == 3 and code.lengths.tolist() == [2, 6, 4]
    assert bool((code.active() == 4).all()) and code.active().shape == (12, 4)
    assert code.sums(code.active()).tolist() == [[4 * n] * 4 for n in (2, 6, 4)]
    again = code.take(torch.tensor([2, 0]))
    assert again.lengths.tolist() == [4, 2] and len(again.rows()) == 2
    for row, ids in enumerate(batch["input_ids"]):
        own = ids[batch["attention_mask"][row].bool()]
        alone = lens.compress({"input_ids": own[None]})
        ours, theirs = (c.tokens.entries for c in (code.take(torch.tensor([row])), alone))
        for mine, its in zip(ours, theirs, strict=True):
            assert torch.equal(mine.features, its.features)
            torch.testing.assert_close(mine.values, its.values, rtol=1e-4, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_sums_over_documents_are_sums_over_slices(lengths: list[int], seed: int) -> None:
    values = torch.randn(sum(lengths), 2, generator=torch.Generator().manual_seed(seed))
    found = sums_of(values, torch.tensor(lengths))
    for row, part in zip(found, values.split(lengths), strict=True):
        torch.testing.assert_close(row, part.sum(0))


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 5), min_size=2, max_size=6), offset=st.floats(-5, 5), seed=st.integers(0, 99))
def test_explained_variance_does_not_depend_on_how_tokens_are_grouped(
    lengths: list[int], offset: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    written = torch.randn(sum(lengths), 3, 4, generator=generator) + offset
    error = torch.randn(sum(lengths), 3, generator=generator).square()
    tokens = torch.tensor(lengths)
    sums, squares = sums_and_squares(written, tokens)
    found = explained_variance(sums_of(error, tokens), spread_of(sums, squares, tokens))
    exact = written.double()
    expected = 1 - error.double().sum(0) / (exact - exact.mean(0)).square().sum((0, 2))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_text_token_by_token() -> None:
    lens, model = transcoder().eval(), shared_lm("llama")
    rows = lens.explain("w1 w2 w3 w4")
    assert [row["token"] for row in rows] == ["w1", "w2", "w3", "w4"]
    assert [row["features"] for row in rows] == [row["features"] for row in lens.features("w1 w2 w3 w4", top=5)]
    batch = {"input_ids": model.tokenizer("w1 w2 w3 w4", return_tensors="pt")["input_ids"]}
    clean, edited = model.logits(batch)[0], model.logits(batch, lens.replaced(batch))[0]
    log_clean = clean.log_softmax(-1)
    kl = (log_clean.exp() * (log_clean - edited.log_softmax(-1))).sum(-1)
    assert [row["kl"] for row in rows] == pytest.approx(kl[1:].tolist(), rel=1e-4)
    assert rows[2]["after"][0][1] == pytest.approx(float(edited[3].softmax(-1).max()), rel=1e-4)
    assert lens.explain("w1 w2 w3 w4", [-1])[0]["token"] == "w4"
    with pytest.raises(BadInput, match="positions"):
        lens.explain("w1", [9])
