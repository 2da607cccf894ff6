"""From SQuAD, HotpotQA, named columns and plain text to examples; what cannot be one is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from extracting import random_texts
from hypothesis import given, settings
from hypothesis import strategies as st

from consistency_lens.activations import Corpus, CorpusArguments
from consistency_lens.activations.corpus import Document
from consistency_lens.activations.passages import Example, PassageArguments, Passages
from consistency_lens.activations.passages.formats import columns_of
from consistency_lens.activations.passages.tasks import examples_of_text
from consistency_lens.activations.passages.units import between, ends_of, words_of
from consistency_lens.errors import BadInput

ALL = {"validation_fraction": 0.0, "test_fraction": 0.0}


def written(path: Path, rows: list[dict[str, Any]]) -> list[str]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(path)]


def built(rows: list[dict[str, Any]], **arguments: Any) -> list[dict[str, Any]]:
    """All rows of a source in memory."""
    given = PassageArguments(**(ALL | arguments))
    corpus = Corpus(Dataset.from_list(rows), columns_of(given), "rows")
    return Passages.of_corpus(corpus, given).splits["train"].to_list()


def squad(context: str, question: str, *texts: str) -> dict[str, Any]:
    return {"id": "x", "context": context, "question": question, "answers": {"text": list(texts), "answer_start": []}}


def test_squad_from_a_local_file(tmp_path: Path) -> None:
    rows = [
        squad("Paris is old.", "Which is old?", "Paris", "Paris", "the city of Paris"),
        squad("Bern is small.", "Which is small?", "Bern"),
        squad("Paris  is old. ", "How is Paris?", "old"),
    ]
    rows = [row | {"answers": row["answers"] | {"answer_start": [0] * len(row["answers"]["text"])}} for row in rows]
    arguments = PassageArguments(train_file=written(tmp_path / "s.jsonl", rows), passage_format="squad", **ALL)
    passages = Passages.build(arguments)
    found = passages.splits["train"].to_list()
    assert [row["answers"] for row in found] == [["Paris", "the city of Paris"], ["Bern"], ["old"]]
    assert [row["prompt"] for row in found] == ["Which is old?", "Which is small?", "How is Paris?"]
    assert [row["doc_id"] for row in found] == [0, 1, 0], "one passage is one document"
    assert [row["row"] for row in found] == [0, 1, 2]
    assert {row["task"] for row in found} == {"answer"} and all(row["ends"] for row in found)
    assert passages.metadata["corpus"]["files"].startswith("sha256:")
    assert passages.metadata["splits"] == {"train": {"documents": 2, "rows": 3}}


def test_hotpotqa_joins_titles_and_sentences(tmp_path: Path) -> None:
    context = {"title": ["A", "B"], "sentences": [["One. ", "Two."], [" Three."]]}
    rows = [{"question": "q?", "answer": "two", "context": context, "level": "hard"}]
    file = written(tmp_path / "h.jsonl", rows)
    found = Passages.build(PassageArguments(train_file=file, passage_format="hotpotqa", **ALL)).splits["train"][0]
    assert found["passage"] == "A: One. Two.\nB: Three."
    assert (found["prompt"], found["answers"]) == ("q?", ["two"])


def test_benchpress_has_its_answers_as_a_list(tmp_path: Path) -> None:
    rows = [{"dataset_name": "squad", "context": "Bern is small.", "question": "Which?", "answers": ["Bern", "it"]}]
    file = written(tmp_path / "b.jsonl", rows)
    found = Passages.build(PassageArguments(train_file=file, passage_format="benchpress", **ALL)).splits["train"][0]
    assert (found["passage"], found["prompt"], found["answers"]) == ("Bern is small.", "Which?", ["Bern", "it"])


def test_squad_as_it_is_published(tmp_path: Path) -> None:
    asked = [
        {"id": "1", "question": "Which?", "answers": [{"text": "Bern", "answer_start": 0}] * 2},
        {"id": "2", "question": "None?", "answers": [], "is_impossible": True},
    ]
    article = {"title": "t", "paragraphs": [{"context": "Bern is small.", "qas": asked}]}
    file = tmp_path / "train-v2.0.json"
    file.write_text(json.dumps({"version": "v2.0", "data": [article, article]}))
    given = {"train_file": [str(file)], "passage_format": "squad", **ALL}
    with pytest.raises(BadInput, match=r"document 1: an answer is missing"):
        Passages.build(PassageArguments(**given))
    passages = Passages.build(PassageArguments(**given, skip_unanswerable=True))
    found = passages.splits["train"].to_list()
    assert [(row["passage"], row["prompt"], row["answers"]) for row in found] == [
        ("Bern is small.", "Which?", ["Bern"])
    ] * 2
    assert [row["doc_id"] for row in found] == [0, 0]
    assert passages.metadata["corpus"]["corpus"] == "train-v2.0.json"
    before = passages.metadata["corpus"]["files"]
    file.write_text(json.dumps({"version": "v2.0", "data": [article]}))
    again = Passages.build(PassageArguments(**given, skip_unanswerable=True))
    assert again.metadata["corpus"]["files"] != before


def test_hotpotqa_as_it_is_published(tmp_path: Path) -> None:
    row = {"_id": "a", "question": "q?", "answer": "x", "context": [["A", ["One. ", "Two."]], ["B", ["Three."]]]}
    file = tmp_path / "hotpot.json"
    file.write_text(json.dumps([row]))
    given = PassageArguments(train_file=[str(file)], passage_format="hotpotqa", **ALL)
    assert Passages.build(given).splits["train"][0]["passage"] == "A: One. Two.\nB: Three."
    file.write_text(json.dumps([row | {"context": "text"}]))
    with pytest.raises(BadInput, match=r"train_file='.*hotpot\.json': ValueError.*Give the file as it was published"):
        Passages.build(given)


def test_json_files_with_a_line_for_each_row(tmp_path: Path) -> None:
    rows = [{"context": f"c{i}", "question": "q", "answers": {"text": ["a"], "answer_start": [0]}} for i in range(3)]
    file = written(tmp_path / "s.json", rows)
    found = Passages.build(PassageArguments(train_file=file, passage_format="squad", **ALL))
    assert list(found.splits["train"]["passage"]) == ["c0", "c1", "c2"]
    with pytest.raises(BadInput, match=r"Use either --train_file or --dataset_name"):
        Passages.build(PassageArguments(train_file=file, dataset_name="x", passage_format="squad"))
    with pytest.raises(BadInput, match=r"Give the path of a file that exists"):
        Passages.build(PassageArguments(train_file=["gone.json"], passage_format="squad"))


def test_columns_by_any_name() -> None:
    names = {"passage_column": "text", "prompt_column": "q", "answer_column": "a"}
    rows = [{"text": "one two", "q": "", "a": "two"}, {"text": "three", "q": "x", "a": "three"}]
    assert [row["answers"] for row in built(rows, passage_format="columns", **names)] == [["two"], ["three"]]
    several = [row | {"a": [row["a"], "other"]} for row in rows]
    found = built(several, passage_format="columns", **names)
    assert [row["answers"] for row in found] == [["two", "other"], ["three", "other"]]
    assert found[0]["prompt"] == ""


@pytest.mark.parametrize("texts", [[], [" "]])
def test_an_answer_that_is_missing_is_refused_or_left_out_when_asked(texts: list[str]) -> None:
    rows = [squad("a b", "q", "a"), squad("c d", "q", *texts)]
    with pytest.raises(BadInput, match=r"answers=\[\]: document 1: an answer is missing.*--skip_unanswerable"):
        built(rows, passage_format="squad")
    assert len(built(rows, passage_format="squad", skip_unanswerable=True)) == 1


def test_an_empty_passage_is_refused() -> None:
    with pytest.raises(BadInput, match=r"passage='  ': document 1: empty"):
        built([squad("a", "q", "a"), squad("  ", "q", "a")], passage_format="squad")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"passage_format": "sqaud"}, "passage_format='sqaud'. Use one of text, squad"),
        ({"keep_columns": ["id"]}, "keep_columns.*Leave it out"),
        ({"prompt_words": 0}, "prompt_words=0. Use 1 or more"),
        ({"lead_words": -1}, "lead_words=-1. Use 0 or more"),
        ({"passage_words": 23}, "passage_words=23. Use 24 or more"),
        ({"recall_share": 0.9}, "shares of 1 together"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
    ],
)
def test_arguments_that_cannot_be_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        PassageArguments(**change)


@pytest.mark.parametrize(
    ("rows", "given", "said"),
    [
        ([{"context": "a", "question": "q"}], "squad", r"keep_columns='answers'.*The source has context, question"),
        ([{"text": "a", "prompt": "q", "answer": "a"}], "columns", r"text_column='passage'.*The source has text"),
        ([{"question": "q", "context": "c", "answer": "a"}], "hotpotqa", r"context='str': document 0.*title and"),
        ([{"context": "c", "question": "q", "answers": {"t": ["a"]}}], "squad", r"no text among its answers"),
        ([{"context": "c", "question": 5, "answers": ["a"]}], "squad", r"prompt=5: document 0 holds a int"),
    ],
)
def test_sources_of_another_layout_are_refused(rows: list[dict[str, Any]], given: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        built(rows, passage_format=given)


SMALL = {"passage_words": 12, "prompt_words": 3, "answer_words": 4}


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_words_cover_the_text_and_join_to_it_again(text: str) -> None:
    ends = ends_of(text)
    assert between(text, ends, 0, len(ends)) == text.rstrip()
    assert [word.strip() for word in words_of(text)] == words_of(text)
    assert "".join(between(text, ends, i, i + 1) for i in range(len(ends))) == text.rstrip()


def test_scripts_without_spaces_have_words_too() -> None:
    assert words_of("我们 go 家") == ["我", "们", "go", "家"]
    assert max(map(len, words_of("x" * 1000))) <= 64


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 80), st.integers(0, 5), st.sampled_from([" ", "  ", "\n\n"]), st.integers(0, 2))
def test_examples_of_a_text_are_what_stands_there(words: int, doc_id: int, space: str, lead: int) -> None:
    text = space.join(f"w{i}" for i in range(words))
    rules = PassageArguments(**SMALL, lead_words=lead, recall_share=0.4, reconstruction_share=0.2)
    found = list(examples_of_text(Document(doc_id, text, {}), rules))
    for each in found:
        (answer,) = each.answers
        assert each.passage in text and 7 <= len(each.passage.split()) <= 12
        if each.task == "recall":
            assert each.prompt + answer in each.passage
            assert len(each.prompt.split()) == 3 and len(answer.split()) == 4 and not each.ends
        elif each.task == "continuation":
            assert each.passage + each.prompt + answer in text
            assert len(each.prompt.split()) == lead and len(answer.split()) == 4
            assert each.ends == text.endswith(answer)
        else:
            assert each.prompt == "" and answer == each.passage and each.ends
    starts = [each.passage.split()[0] for each in found]
    assert starts == [f"w{12 * i}" for i in range(len(found))], "windows follow each other"
    assert bool(found) == (words >= 7 + lead + 4)


def test_tasks_come_in_their_shares_and_depend_on_the_seed_alone() -> None:
    texts = [{"text": text} for text in random_texts(300, shortest=40)]
    shares = {"recall_share": 0.3, "reconstruction_share": 0.2}
    found = built(texts, **SMALL, **shares)
    counts = {task: sum(row["task"] == task for row in found) / len(found) for task in ("recall", "reconstruction")}
    assert counts["recall"] == pytest.approx(0.3, abs=0.05) and counts["reconstruction"] == pytest.approx(
        0.2, abs=0.05
    )
    assert found == built(texts, **SMALL, **shares)
    assert found != built(texts, **SMALL, **shares, seed=1)
    assert found[: len(found) // 2] == built(texts, **SMALL, **shares, max_documents=200)[: len(found) // 2]


def test_a_source_without_examples_says_so() -> None:
    with pytest.raises(BadInput, match="there is no example to train on"):
        built([{"text": "too short"}])


def test_an_example_has_a_task_that_exists() -> None:
    with pytest.raises(BadInput, match=r"task='qa': document 3\. Use one of answer, cloze"):
        Example(3, "p", "q", ("a",), "qa")


def test_corpus_arguments_are_those_of_the_corpus() -> None:
    given = PassageArguments(dataset_name="x", passage_format="squad", max_documents=3)
    found = columns_of(given)
    assert type(found) is CorpusArguments and (found.text_column, found.max_documents) == ("context", 3)
    assert given.keep_columns == [], "what was given stays as it was"
