"""Rows are functions of document and seed alone, and hold what the model really computed at P."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from extracting import corpus_of, extract_to, random_texts, rows_of
from tiny import shared_lm, tiny_lm, tiny_tokenizer

from consistency_lens.activations import Activations, Corpus, CorpusArguments
from consistency_lens.activations.contexts.reader import ChunkReader
from consistency_lens.activations.contexts.rows import RowRules, positions_of, prepare
from consistency_lens.activations.documents import SPLITS, split_of
from consistency_lens.errors import BadInput

SITES = ["embed", "resid_pre.1", "attn_out.1", "mlp_in.2", "mlp_out.2", "resid_post.2"]
TEXTS = random_texts(150)
RULES = RowRules(min_position=4, validation_fraction=0.2, test_fraction=0.2)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Activations:
    return extract_to(tmp_path_factory.mktemp("stored") / "rows", TEXTS, sites=SITES)


def tokens_of(doc_id: int) -> list[int]:
    return tiny_tokenizer()(TEXTS[doc_id])["input_ids"]


def test_there_is_a_row_for_each_position_of_each_document_that_is_long_enough(stored: Activations) -> None:
    rows = Counter(doc_id for doc_id, _ in rows_of(stored))
    for doc_id in range(len(TEXTS)):
        assert rows[doc_id] == max(0, min(4, len(tokens_of(doc_id)) - 1 - 4))
    assert stored.metadata["documents_too_short"] == sum(len(tokens_of(i)) < 6 for i in range(len(TEXTS))) > 0
    assert min(map(len, stored.splits.values())) > 0


def test_the_tokens_are_those_of_the_document(stored: Activations) -> None:
    lengths = Counter()
    for (doc_id, position), row in rows_of(stored).items():
        tokens = tokens_of(doc_id)
        assert row["input_ids"] == tokens[: position + 1]
        assert row["continuation_ids"] == tokens[position + 1 :][:8]
        lengths[len(row["continuation_ids"])] += 1
    assert set(lengths) == set(range(1, 9)), "the end of a document leaves fewer than 8, and never none"


@pytest.mark.parametrize("site", SITES)
def test_a_row_holds_what_a_pass_over_its_own_context_computes(stored: Activations, site: str) -> None:
    lm = shared_lm("llama")
    for row in list(rows_of(stored).values())[::7]:
        alone = lm.read({"input_ids": torch.tensor([row["input_ids"]])}, site)[site][0, -1]
        torch.testing.assert_close(torch.from_numpy(row[site]), alone, atol=1e-5, rtol=1e-5)


def test_a_row_holds_what_transformers_itself_hands_out(stored: Activations) -> None:
    model = tiny_lm("llama").model  # not the shared one: this leaves hooks of transformers on it
    for row in list(rows_of(stored).values())[::7]:
        with torch.no_grad():
            states = model(torch.tensor([row["input_ids"]]), output_hidden_states=True).hidden_states
        for site, state in [("embed", states[0]), ("resid_pre.1", states[1]), ("resid_post.2", states[3])]:
            torch.testing.assert_close(torch.from_numpy(row[site]), state[0, -1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{"batch_size": 1, "documents_per_shard": 1000}, {"batch_size": 150, "documents_per_shard": 7}],
    ids=lambda settings: "-".join(f"{name}={value}" for name, value in settings.items()),
)
def test_rows_do_not_depend_on_how_the_work_is_cut(
    stored: Activations, tmp_path: Path, settings: dict[str, int]
) -> None:
    expected, found = rows_of(stored), rows_of(extract_to(tmp_path / "rows", TEXTS, sites=SITES, **settings))
    assert list(found) == list(expected)
    for key, row in found.items():
        for name, value in row.items():
            if name in SITES:
                np.testing.assert_allclose(value, expected[key][name], atol=1e-5, rtol=1e-5)
            else:
                assert value == expected[key][name]


def test_chunks_come_out_the_same_in_any_order() -> None:
    lm, corpus = shared_lm("llama"), corpus_of(TEXTS)
    reader = ChunkReader(lm, SITES, 8)

    def vectors_of(order: list[int]) -> dict[int, list[torch.Tensor]]:
        chunks = dict(corpus.chunks(16))
        return {
            index: [
                vectors
                for own in prepare(chunks[index], lm.tokenizer, RULES).values()
                for vectors in reader.read(own).values()
            ]
            for index in order
        }

    forwards, backwards = vectors_of(list(range(10))), vectors_of(list(range(9, -1, -1)))
    assert set(forwards) == set(range(10))
    for index, vectors in forwards.items():
        assert vectors and all(torch.equal(a, b) for a, b in zip(vectors, backwards[index], strict=True))


def test_chunks_that_are_not_wanted_are_passed_over_and_the_others_keep_their_numbers() -> None:
    rows = Dataset.from_dict({"text": TEXTS})
    for source in (rows, rows.to_iterable_dataset()):
        corpus = Corpus(source, CorpusArguments(max_documents=45), "words")
        found = dict(corpus.chunks(10, lambda index: index in (1, 4)))
        assert [[d.doc_id for d in documents] for documents in found.values()] == [[*range(10, 20)], [*range(40, 45)]]
        assert all(d.text == TEXTS[d.doc_id] for documents in found.values() for d in documents)


def test_positions_are_uniform_from_the_first_to_the_last_that_has_a_next_token() -> None:
    length, documents = 30, 8000
    drawn = [positions_of(doc_id, length, RULES) for doc_id in range(documents)]
    assert all(len(set(positions)) == 4 and (np.diff(positions) > 0).all() for positions in drawn)
    counts = Counter(np.concatenate(drawn).tolist())
    assert set(counts) == set(range(4, length - 1)), "both ends occur and nothing lies beyond them"
    expected = 4 * documents / len(counts)
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_square < 51.2, "0.1 % of uniform draws of 25 positions exceed this"


def test_the_shortest_document_has_its_one_position() -> None:
    assert positions_of(0, 6, RULES).tolist() == [4]
    assert positions_of(0, 7, RULES).tolist() == [4, 5]
    documents = dict(corpus_of(["a b c d", "a b c d e"]).chunks(2))[0]
    kept = [p for own in prepare(documents, tiny_tokenizer(), RULES).values() for p in own]
    assert [(p.doc_id, len(p.ids), p.positions.tolist()) for p in kept] == [(1, 6, [4])]


def test_positions_differ_by_document_and_by_seed() -> None:
    other = RowRules(min_position=4, seed=1)
    draws = {tuple(positions_of(doc_id, 100, rules)) for doc_id in range(50) for rules in (RULES, other)}
    assert len(draws) == 100


def test_documents_are_cut_at_max_length(tmp_path: Path) -> None:
    rows = rows_of(extract_to(tmp_path / "rows", TEXTS, max_length=12, positions_per_document=50))
    for doc_id in range(len(TEXTS)):
        positions = [position for owner, position in rows if owner == doc_id]
        assert positions == list(range(4, min(12, len(tokens_of(doc_id))) - 1))


def test_the_split_depends_on_the_words_alone() -> None:
    texts = random_texts(3000, seed=5)
    splits = [split_of(text, RULES) for text in texts]
    assert splits == [split_of(f"  {text.upper()}\n", RULES) for text in texts]
    shares = {name: splits.count(name) / len(splits) for name in SPLITS}
    assert shares == pytest.approx({"train": 0.6, "validation": 0.2, "test": 0.2}, abs=0.03)
    assert splits != [split_of(text, RowRules(validation_fraction=0.2, test_fraction=0.2, seed=1)) for text in texts]


def test_copies_of_a_text_are_in_one_split_with_positions_of_their_own(tmp_path: Path) -> None:
    rows = rows_of(extract_to(tmp_path / "rows", TEXTS[:40] * 4, documents_per_shard=7))
    splits = {}
    for (doc_id, _), row in rows.items():
        splits.setdefault(doc_id % 40, set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert set().union(*splits.values()) == set(SPLITS)
    positions = {doc_id: tuple(p for owner, p in rows if owner == doc_id) for doc_id, _ in rows}
    assert any(positions[doc_id] != positions[doc_id + 40] for doc_id in positions if doc_id < 40)


def test_no_held_out_documents_where_none_are_wanted(tmp_path: Path) -> None:
    found = extract_to(tmp_path / "rows", TEXTS, validation_fraction=0, test_fraction=0)
    assert list(found.splits) == ["train"]


def test_kept_columns_travel_with_every_row_of_their_document(tmp_path: Path) -> None:
    facts = [[{"kind": "colour", "value": str(i)}] * (i % 3) for i in range(len(TEXTS))]
    corpus = corpus_of(TEXTS, number=list(range(len(TEXTS))), facts=facts)
    rows = rows_of(extract_to(tmp_path / "rows", corpus))
    assert len(rows) > 100
    for (doc_id, _), row in rows.items():
        assert row["number"] == doc_id and row["facts"] == facts[doc_id]


def test_positions_may_be_steps_apart() -> None:
    rules = RowRules(min_position=7, position_step=5, positions_per_document=3)
    for doc_id in range(30):
        for length in (9, 13, 14, 40):
            found = positions_of(doc_id, length, rules)
            there = list(range(7, length - 1, 5))
            assert len(found) == min(3, len(there)) and set(found.tolist()) <= set(there)
    with pytest.raises(BadInput, match="position_step"):
        RowRules(position_step=0)
