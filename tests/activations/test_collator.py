"""Batches: P in the last column, dtypes as stored, and A' always from another document."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from extracting import corpus_of, extract_to, random_texts, vectors_of
from tiny import tiny_lm
from torch.utils.data import DataLoader

from consistency_lens.activations import ActivationCollator, Activations
from consistency_lens.activations.contexts.dataset import pair_by_document
from consistency_lens.errors import BadInput

SITES = ["embed", "resid_post.2"]
SITE = SITES[1]
PAD = 77


@pytest.fixture(scope="module", params=["float32", "float16"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Activations:
    lm, texts = tiny_lm("llama"), random_texts(80)
    if request.param == "float16":
        lm.model.to(torch.bfloat16)
    corpus = corpus_of(texts, title=[f"title {i}" for i in range(80)], facts=[[i] * (i % 3) for i in range(80)])
    found = extract_to(tmp_path_factory.mktemp("stored") / "rows", corpus, lm, sites=SITES)
    assert found.metadata["dtype"] == request.param
    return found


def rows_in(stored: Activations, form: str | None) -> list[dict[str, Any]]:
    rows = stored.splits["train"].with_format(form)
    return [rows[i] for i in range(0, len(rows), 5)]


@pytest.mark.parametrize("form", [None, "torch", "numpy"])
def test_a_batch_holds_its_rows(stored: Activations, form: str | None) -> None:
    rows, plain = rows_in(stored, form), rows_in(stored, None)
    batch = stored.collator(pad_token_id=PAD)(rows)
    assert batch["input_ids"].dtype == batch["attention_mask"].dtype == batch["doc_id"].dtype == torch.int64
    assert batch["doc_id"].tolist() == [row["doc_id"] for row in plain]
    assert batch["position"].tolist() == [row["position"] for row in plain]
    assert batch["input_ids"].shape[1] == max(len(row["input_ids"]) for row in plain)
    for i, row in enumerate(plain):
        ids, mask = batch["input_ids"][i].tolist(), batch["attention_mask"][i].tolist()
        padding = len(ids) - len(row["input_ids"])
        assert ids == [PAD] * padding + row["input_ids"]
        assert mask == [0] * padding + [1] * (row["position"] + 1)
        ids, mask = batch["continuation_ids"][i].tolist(), batch["continuation_mask"][i].tolist()
        padding = len(ids) - len(row["continuation_ids"])
        assert ids == row["continuation_ids"] + [PAD] * padding
        assert mask == [1] * len(row["continuation_ids"]) + [0] * padding
    assert len({len(row["input_ids"]) for row in plain}) > 5
    assert len({len(row["continuation_ids"]) for row in plain}) > 2


@pytest.mark.parametrize("form", [None, "torch", "numpy"])
def test_activations_keep_their_dtype_and_every_bit(stored: Activations, form: str | None) -> None:
    batch = stored.collator()(rows_in(stored, form))
    assert list(batch["activations"]) == SITES
    for site in SITES:
        exact = vectors_of(stored.splits["train"], site)[::5]
        assert batch["activations"][site].dtype == stored.dtype == getattr(torch, str(exact.dtype))
        np.testing.assert_array_equal(batch["activations"][site].numpy(), exact)


@pytest.mark.parametrize("form", [None, "torch", "numpy"])
def test_without_a_dtype_values_are_single_precision(stored: Activations, form: str | None) -> None:
    batch = ActivationCollator([SITE])(rows_in(stored, form))
    assert list(batch["activations"]) == [SITE] and batch["activations"][SITE].dtype == torch.float32
    np.testing.assert_array_equal(batch["activations"][SITE], vectors_of(stored.splits["train"], SITE)[::5])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_tensors_keep_the_dtype_they_come_in(dtype: torch.dtype) -> None:
    row = {"input_ids": [1], "continuation_ids": [2], "position": 0, SITE: torch.ones(4, dtype=dtype)}
    batch = ActivationCollator([SITE])([row | {"doc_id": 0}, row | {"doc_id": 1}])
    assert batch["activations"][SITE].dtype == dtype


def test_other_columns_come_as_lists(stored: Activations) -> None:
    batch = stored.collator()(rows_in(stored, None))
    documents = batch["doc_id"].tolist()
    assert batch["title"] == [f"title {i}" for i in documents]
    assert batch["facts"] == [[i] * (i % 3) for i in documents]
    known = {"input_ids", "attention_mask", "continuation_ids", "continuation_mask", "position", "doc_id", "pair"}
    assert set(batch) == known | {"activations", "title", "facts"}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_loader_makes_the_same_batches_each_time(stored: Activations, workers: int) -> None:
    rows = stored.splits["train"].with_format("torch")

    def batches() -> list[dict[str, Any]]:
        order = torch.Generator().manual_seed(3)
        collate = stored.collator()
        return list(DataLoader(rows, 16, shuffle=True, generator=order, collate_fn=collate, num_workers=workers))

    first, again = batches(), batches()
    assert len(first) > 3
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one["pair"], other["pair"]) and torch.equal(one["input_ids"], other["input_ids"])
        assert torch.equal(one["activations"][SITE], other["activations"][SITE])
        assert (one["doc_id"][one["pair"]] != one["doc_id"]).all()


def test_pairs_are_of_two_documents_whatever_the_batch() -> None:
    rng = np.random.default_rng(0)
    permutations = 0
    for _ in range(2000):
        size, kinds = rng.integers(2, 40), rng.integers(2, 12)
        weights = rng.dirichlet(np.full(kinds, 0.5))
        doc_id = torch.from_numpy(rng.choice(kinds, size, p=weights) * 1000)
        if len(doc_id.unique()) == 1:
            continue
        pair = pair_by_document(doc_id)
        assert (doc_id[pair] != doc_id).all()
        assert torch.equal(pair, pair_by_document(doc_id))
        if max(Counter(doc_id.tolist()).values()) * 2 <= size:
            assert sorted(pair.tolist()) == list(range(size)), "each row serves once"
            permutations += 1
    assert 200 < permutations < 1800, "both cases were met"


def test_rows_of_a_crowded_document_share_the_partners_there_are() -> None:
    doc_id = torch.tensor([5, 5, 5, 5, 5, 5, 8, 9])
    pair = pair_by_document(doc_id)
    assert set(pair[:6].tolist()) == {6, 7} and (doc_id[pair[6:]] == 5).all()
    assert max(Counter(pair[:6].tolist()).values()) <= 4


def test_two_rows_are_each_others_partners() -> None:
    assert pair_by_document(torch.tensor([7, 3])).tolist() == [1, 0]


@pytest.mark.parametrize("documents", [[4], [4, 4, 4]])
def test_a_batch_of_one_document_is_refused(stored: Activations, documents: list[int]) -> None:
    row = rows_in(stored, None)[0]
    rows = [row | {"doc_id": doc_id} for doc_id in documents]
    said = rf"batch_size={len(documents)}: all rows of the batch are of one document.* at least 2 rows .*documents"
    with pytest.raises(BadInput, match=said):
        stored.collator()(rows)
    alone = stored.collator(pair=False)(rows)
    assert "pair" not in alone and len(alone["input_ids"]) == len(documents)


def test_a_site_that_was_not_read_is_refused(stored: Activations) -> None:
    with pytest.raises(BadInput, match=r"sites='resid_post\.3'\. The rows hold .*resid_post\.2"):
        ActivationCollator(["resid_post.3"])(rows_in(stored, None))


def test_no_rows_are_refused(stored: Activations) -> None:
    with pytest.raises(BadInput, match="Give at least one row"):
        stored.collator()([])


@pytest.mark.parametrize("name", ["doc_id", "embed", "pair", "activations", "attention_mask"])
def test_a_kept_column_cannot_take_a_name_of_ours(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=rf"keep_columns='{name}'.*Rename the column"):
        extract_to(tmp_path / "rows", corpus_of(random_texts(20), **{name: list(range(20))}), sites=SITES)
