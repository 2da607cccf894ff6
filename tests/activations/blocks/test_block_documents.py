"""Documents become blocks by rules alone: short ones are kept, and splits are those of rows."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from block_runs import block_extraction
from extracting import corpus_of, random_texts
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from consistency_lens.activations.blocks.documents import BlockRules, labels_of, packed, prepare
from consistency_lens.activations.contexts.rows import RowRules
from consistency_lens.activations.contexts.rows import prepare as rows_of
from consistency_lens.activations.documents import Tokens
from consistency_lens.errors import BadInput

TEXTS = ["", "w1", "w1 w2", *random_texts(60, shortest=3)]


def test_documents_are_tokenised_and_split_as_rows_are() -> None:
    documents = next(corpus_of(TEXTS).chunks(100))[1]
    held_out: dict[str, Any] = {"validation_fraction": 0.3, "test_fraction": 0.2, "seed": 4, "max_length": 40}
    found = prepare(documents, tiny_tokenizer(), BlockRules(min_position=1, **held_out))
    assert sorted(t.doc_id for own in found.values() for t in own) == list(range(1, len(TEXTS))), (
        "only '' has no token"
    )
    for split, rows in rows_of(documents, tiny_tokenizer(), RowRules(min_position=1, **held_out)).items():
        ids = {tokens.doc_id: tokens.ids for tokens in found[split]}
        assert len(rows) > 5
        for row in rows:
            assert row.ids.tolist() == ids[row.doc_id].tolist()
    assert all(len(tokens.ids) <= 40 for own in found.values() for tokens in own)
    everything = prepare(documents, tiny_tokenizer(), BlockRules(min_position=0, **held_out))
    assert sum(len(own) for own in everything.values()) == len(TEXTS), "the BOS token of '' counts"


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(3, 30), max_size=20), st.integers(1, 60), st.integers(0, 2))
def test_a_block_takes_whole_documents_up_to_its_size(lengths: list[int], room: int, first: int) -> None:
    rules = BlockRules(min_position=first, tokens_per_block=room)
    blocks = packed([Tokens(0, np.zeros(n, np.int32)) for n in lengths], rules)
    assert [n for block in blocks for n in lengths[block]] == lengths
    kept = [[n - first for n in lengths[block]] for block in blocks]
    assert all(sum(own) <= room or len(own) == 1 for own in kept)
    assert all(sum(a) + b[0] > room for a, b in pairwise(kept)), "none closes too early"


def test_labels_say_where_a_token_comes_from() -> None:
    documents = [Tokens(7, np.array([5, 6, 8], np.int32)), Tokens(9, np.array([4, 3], np.int32))]
    labels = labels_of(documents, 1)
    assert labels.doc_id.tolist() == [7, 7, 9]
    assert labels.position.tolist() == [1, 2, 1]
    assert labels.input_ids.tolist() == [6, 8, 3]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_position", -1),
        ("seed", -1),
        ("tokens_per_block", 0),
        ("max_length", 1),
        ("max_length", 129),
        ("batch_size", 0),
        ("documents_per_shard", 0),
        ("validation_fraction", 1.0),
        ("storage_dtype", "int4"),
    ],
)
def test_what_cannot_be_is_refused_by_name_before_the_weights_are_loaded(name: str, value: Any) -> None:
    with pytest.raises(BadInput, match=f"^{name}="):
        block_extraction(TEXTS, **{name: value})


def test_texts_without_a_token_to_keep_are_refused() -> None:
    with pytest.raises(BadInput, match="no document has the 2 tokens that it takes"):
        block_extraction(["", ""])


def test_columns_of_the_corpus_are_refused() -> None:
    with pytest.raises(BadInput, match=r"keep_columns=\['author'\]: tokens carry no columns"):
        block_extraction(corpus_of(["w1 w2"], author=["x"]))


def test_a_stage_of_all_layers_is_written_with_a_star() -> None:
    found = block_extraction(TEXTS, sites=["embed", "mlp_in.*", "mlp_out.-1"])
    assert found.sites == ["embed", "mlp_in.0", "mlp_in.1", "mlp_in.2", "mlp_in.3", "mlp_out.3"]
