"""Documents that somebody has, as blocks: with their activations, or read by the model; and what cannot be is refused
by the name of its column."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from block_runs import SITES, extract_blocks
from datasets import Array2D, Dataset, DatasetDict, Features, IterableDataset, List, Value
from extracting import random_texts
from tiny import VOCABULARY, shared_lm

from consistency_lens.activations import plain
from consistency_lens.activations.blocks import Blocks, BlockStream
from consistency_lens.errors import BadInput

TEXTS = random_texts(30, shortest=3, longest=20)
Change = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Blocks:
    """All documents in one block of each split, as plain ones are cut."""
    sizes = {"documents_per_shard": 256, "tokens_per_block": 4096}
    return extract_blocks(tmp_path_factory.mktemp("given") / "blocks", TEXTS, batch_size=16, **sizes)


def documents_of(blocks: Blocks, split: str) -> list[dict[str, Any]]:
    found = []
    for document in (blocks.documents(split)[i] for i in range(len(blocks.documents(split)))):
        activations = dict(zip(SITES, document["activations"].unbind(1), strict=True))
        row = {"doc_id": int(document["doc_id"]), "input_ids": document["input_ids"].tolist()}
        found.append(row | {site: values.tolist() for site, values in activations.items()})
    return found


@pytest.fixture(scope="module")
def rows(stored: Blocks) -> dict[str, list[dict[str, Any]]]:
    return {split: documents_of(stored, split) for split in ("train", "validation")}


def with_floats(rows: list[dict[str, Any]], kind: str = "float32") -> Dataset:
    vectors = {site: List(List(Value(kind), length=len(rows[0][site][0]))) for site in SITES}
    return Dataset.from_list(
        rows, features=Features({"doc_id": Value("int64"), "input_ids": List(Value("int32")), **vectors})
    )


def test_given_activations_are_the_blocks_that_are_stored(stored: Blocks, rows: dict[str, Any]) -> None:
    lm = shared_lm("llama")
    train, held_out = with_floats(rows["train"]), with_floats(rows["validation"])
    given = Blocks.from_dataset(train, lm, SITES[::-1], held_out)  # the order is that of the pass
    assert given.sites == tuple(SITES) and given.dtype == torch.float32 and not isinstance(given, BlockStream)
    for split in ("train", "validation"):
        a, b = given.tokens(split, seed=2), stored.tokens(split, seed=2)
        assert len(a) == len(b) == given.metadata["splits"][split]["tokens"]
        ours, theirs = a.__getitems__(range(len(a))), b.__getitems__(range(len(b)))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    torch.testing.assert_close(given.mean, stored.mean, rtol=0, atol=0)
    torch.testing.assert_close(given.variance, stored.variance, rtol=0, atol=0)
    given.require_model(lm)


@pytest.mark.parametrize("kind", ["splits", "rows", "stream", "text"])
def test_documents_alone_are_read_by_the_model(stored: Blocks, rows: dict[str, Any], kind: str) -> None:
    plain = {split: [{"input_ids": row["input_ids"]} for row in own] for split, own in rows.items()}
    if kind == "text":  # the tokenizer puts its BOS in front
        decode = shared_lm("llama").tokenizer.decode
        plain = {s: [{"text": decode(row["input_ids"][1:])} for row in own] for s, own in plain.items()}
    train, held_out = Dataset.from_list(plain["train"]), Dataset.from_list(plain["validation"])
    given: Any = DatasetDict({"train": train, "validation": held_out}) if kind == "splits" else train
    given = IterableDataset.from_generator(lambda: iter(plain["train"])) if kind == "stream" else given
    blocks = Blocks.from_dataset(given, shared_lm("llama"), SITES, None if kind == "splits" else held_out)
    assert isinstance(blocks, BlockStream)
    for split in ("train", "validation"):
        ours, theirs = blocks.tokens(split)[5], stored.tokens(split)[5]
        torch.testing.assert_close(ours["activations"], theirs["activations"], rtol=1e-4, atol=1e-5)
        assert ours["input_ids"] == theirs["input_ids"] and ours["position"] == theirs["position"]
    assert len(set(blocks.documents("train")._places[:, 1])) == len(train), "documents are numbered"


def test_halves_and_arrays_are_taken_too(rows: dict[str, Any]) -> None:
    few = [row for row in rows["train"] if len(row["input_ids"]) == len(rows["train"][0]["input_ids"])]
    shape = np.array(few[0][SITES[0]]).shape
    arrays = {site: Array2D(shape, "float16") for site in SITES}
    made = Dataset.from_list(
        few, features=Features({"doc_id": Value("int64"), "input_ids": List(Value("int32")), **arrays})
    )
    given, halves = (Blocks.from_dataset(each, shared_lm("llama")) for each in (made, with_floats(few, "float16")))
    assert given.dtype == halves.dtype == torch.float16
    assert torch.equal(given.source().read(0), halves.source().read(0))


def _first(change: Change) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda rows: [change(dict(rows[0])), *rows[1:]]


def _every(change: Change) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda rows: [change(dict(row)) for row in rows]


SITE = SITES[0]
REFUSED: dict[str, tuple[Any, str]] = {
    "no tokens": (_every(lambda r: {s: r[s] for s in SITES}), r"='text': the column is missing.*Or input_ids"),
    "none": (lambda rows: [], r"'text': the column is missing; there are none"),
    "short documents": (_first(lambda r: r | {"input_ids": [5]}), rf"'{SITE}'"),
    "no site": (_every(lambda r: {k: v for k, v in r.items() if k != SITES[1]}), rf"'{SITES[1]}'.*Or leave out all"),
    "empty": (_first(lambda r: r | {"input_ids": []}), r"='input_ids': a document is empty"),
    "beyond": (_first(lambda r: r | {"input_ids": [VOCABULARY]}), "a token id beyond"),
    "no lists": (_every(lambda r: r | {"input_ids": 5}), r"='input_ids': it holds no lists"),
    "long": (_first(lambda r: r | {"input_ids": [5] * 5000}), r"='input_ids': a document has 5000 tokens"),
    "ids": (_every(lambda r: r | {"doc_id": 1}), r"='doc_id': two documents have the number 1"),
    "short": (_first(lambda r: r | {SITE: r[SITE][1:]}), rf"'{SITE}': row 1 has \d+ vectors and"),
    "flat": (_every(lambda r: r | {SITE: r[SITE][0]}), rf"'{SITE}': it holds something else.*list of vectors"),
    "width": (_every(lambda r: r | {s: [v[1:] for v in r[s]] for s in SITES}), "numbers.*Give activations of"),
    "nan": (_first(lambda r: r | {SITE: [[float("nan")] * len(v) for v in r[SITE]]}), "not finite"),
    "whole": (_every(lambda r: r | {SITE: [[int(x) for x in v] for v in r[SITE]]}), "of the type int64"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_cannot_be_is_refused_by_the_name_of_its_column(rows: dict[str, Any], how: str) -> None:
    change, said = REFUSED[how]
    with pytest.raises(BadInput, match=rf"^train_dataset.*{said}"):
        Blocks.from_dataset(Dataset.from_list(change(rows["train"])), shared_lm("llama"), SITES)


def test_a_document_of_two_splits_is_refused(rows: dict[str, Any]) -> None:
    own = Dataset.from_list([{"input_ids": row["input_ids"]} for row in rows["train"]])
    with pytest.raises(BadInput, match=r"^eval_dataset='input_ids': document \d+ of validation stands in train, too"):
        Blocks.from_dataset(own, shared_lm("llama"), SITES, own.select([3]))


def test_the_sites_and_the_kind_are_named(monkeypatch: pytest.MonkeyPatch, rows: dict[str, Any]) -> None:
    lm, texts = shared_lm("llama"), Dataset.from_dict({"text": TEXTS})
    with pytest.raises(BadInput, match=r"sites=None: of the columns \['text'\] none is named after a site"):
        Blocks.from_dataset(texts, lm)
    with pytest.raises(BadInput, match=r"train_dataset='list': it is of another kind\. Give Blocks, the path"):
        Blocks.from_dataset([1], lm, SITES)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"train_dataset='dev': an unknown split"):
        Blocks.from_dataset(DatasetDict({"train": texts, "dev": texts}), lm, SITES)
    with pytest.raises(BadInput, match=r"IterableDataset.*Give a Dataset, or the documents"):
        Blocks.from_dataset(with_floats(rows["train"]).to_iterable_dataset(), lm)
    monkeypatch.setattr(plain, "MOST_OF_A_STREAM", 4)
    with pytest.raises(BadInput, match=r"more than 4 rows.*dataset\.take\(4\)"):
        Blocks.from_dataset(texts.to_iterable_dataset(), lm, SITES)


def test_a_path_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no extraction lies there"):
        Blocks.load(tmp_path)
