"""The stream yields what would be stored: same rows, same order, same bits; and corpora may be streams themselves."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import IterableDataset
from extracting import extract_to, extraction_of, random_texts, vectors_of, write_jsonl, written
from tiny import shared_lm, tiny_lm
from torch.utils.data import DataLoader

from consistency_lens.activations import ActivationCollator, Activations, Corpus, CorpusArguments
from consistency_lens.errors import BadInput
from consistency_lens.frozen import FrozenLM

SITES = ["embed", "resid_post.2"]
TEXTS = random_texts(90)
SPLITS = ["train", "validation", "test"]


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[FrozenLM, Activations]:
    """A model and what is stored of it: as float32, and as float16."""
    lm = tiny_lm("llama")
    lm.model.to(request.param)
    return lm, extract_to(tmp_path_factory.mktemp("stored") / "rows", TEXTS, lm, sites=SITES)


def stream_of(lm: FrozenLM, split: str = "train", dtype: str = "float32", **arguments: Any) -> IterableDataset:
    return extraction_of(TEXTS, lm=lm, sites=SITES, **arguments).stream(lm, split, dtype)


def keys(rows: Iterable[dict[str, Any]]) -> list[tuple[int, int]]:
    return [(int(row["doc_id"]), int(row["position"])) for row in rows]


@pytest.mark.parametrize("split", SPLITS)
def test_the_stream_is_the_stored_split(both: tuple[FrozenLM, Activations], split: str) -> None:
    lm, stored = both
    stream = stream_of(lm, split, stored.metadata["dtype"])
    assert stream.features == stored.splits[split].features
    streamed, rows = list(stream), stored.splits[split].to_list()
    assert len(streamed) == len(rows) > 20
    for name in ("doc_id", "position", "input_ids", "continuation_ids"):
        assert [row[name] for row in streamed] == [row[name] for row in rows]
    for site in SITES:
        exact = vectors_of(stored.splits[split], site)
        np.testing.assert_array_equal(np.array([row[site] for row in streamed]).astype(exact.dtype), exact)


def test_it_can_be_read_again(both: tuple[FrozenLM, Activations]) -> None:
    stream = stream_of(both[0])
    assert keys(stream) == keys(stream) == keys(both[1].splits["train"])


def test_shuffled_with_a_seed_it_is_the_same_each_time(both: tuple[FrozenLM, Activations]) -> None:
    lm, stored = both
    orders = [keys(stream_of(lm).shuffle(seed=seed, buffer_size=50)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(keys(stored.splits["train"])) != orders[0]


@pytest.mark.parametrize("form", ["plain", "torch"])
def test_it_feeds_a_data_loader(both: tuple[FrozenLM, Activations], form: str) -> None:
    lm, stored = both
    stream = stream_of(lm, dtype=stored.metadata["dtype"]).shuffle(seed=3, buffer_size=100)
    stream = stream.with_format("torch") if form == "torch" else stream
    loader = DataLoader(stream, batch_size=16, collate_fn=stored.collator(), drop_last=True)
    batches = list(loader)
    assert len(batches) == len(stored.splits["train"]) // 16
    exact = dict(zip(keys(stored.splits["train"]), vectors_of(stored.splits["train"], SITES[1]), strict=True))
    for batch in batches:
        assert batch["activations"][SITES[1]].dtype == stored.dtype
        for i in range(16):
            key = (int(batch["doc_id"][i]), int(batch["position"][i]))
            np.testing.assert_array_equal(batch["activations"][SITES[1]][i].numpy(), exact[key])


def test_it_reads_no_further_than_it_is_asked_to() -> None:
    lm, passes = tiny_lm("llama"), []
    lm.model.register_forward_hook(lambda *_: passes.append(1))  # a pass cut below its end never gets here ...
    lm.model.get_input_embeddings().register_forward_hook(lambda *_: passes.append(0))  # ... but all start here
    next(iter(stream_of(lm)))
    assert 1 <= len(passes) <= 2, "one chunk of 16 documents, read in batches of 8"


def test_making_one_does_not_look_at_the_weights(tmp_path: Path) -> None:
    """`datasets` hashes what it generates from; with the weights in it that takes seconds for each 100M of them."""
    big = tiny_lm("llama", hidden_size=512, intermediate_size=4096, num_hidden_layers=8)
    assert sum(p.numel() for p in big.model.parameters()) > 5e7
    extraction = extraction_of(TEXTS, lm=big, sites=["resid_post.0"])
    began = time.process_time()
    stream = extraction.stream(big)
    assert time.process_time() - began < 0.5
    assert set(next(iter(stream))) == {"doc_id", "input_ids", "continuation_ids", "position", "resid_post.0"}


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(BadInput, match=r"split='valid'\. Use one of train, validation, test"):
        stream_of(shared_lm("llama"), "valid")


@pytest.mark.parametrize("limit", [None, 50])
def test_a_streamed_corpus_gives_the_rows_of_the_same_corpus_on_disk(tmp_path: Path, limit: int | None) -> None:
    path = write_jsonl(tmp_path / "texts.jsonl", TEXTS)
    given = {"train_file": [str(path)], "max_documents": limit}
    folders = {}
    for streaming in (False, True):
        corpus = Corpus.load(CorpusArguments(streaming=streaming, **given))
        assert isinstance(corpus.source, IterableDataset) is streaming
        folders[streaming] = tmp_path / str(streaming)
        extract_to(folders[streaming], corpus, sites=SITES)
    assert written(folders[True]) == written(folders[False])
    documents = {row["doc_id"] for rows in Activations.load(folders[True]).splits.values() for row in rows}
    assert max(documents) == (limit or len(TEXTS)) - 1


def test_a_stream_of_a_stream(tmp_path: Path) -> None:
    lm, path = shared_lm("llama"), write_jsonl(tmp_path / "texts.jsonl", TEXTS)
    corpus = Corpus.load(CorpusArguments(train_file=[str(path)], streaming=True))
    streamed = extraction_of(corpus, lm=lm, sites=SITES).stream(lm, "test")
    assert keys(streamed) == keys(stream_of(lm, "test"))


def test_plain_rows_of_a_stream_collate_without_help(both: tuple[FrozenLM, Activations]) -> None:
    batch = ActivationCollator(SITES)(list(stream_of(both[0]).take(40)))
    assert batch["activations"]["embed"].dtype == torch.float32
