"""A passage stands in one split, whatever is asked about it; rows depend on the seed alone; folders are checked."""

from __future__ import annotations

import json
import resource
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from block_runs import elsewhere, written_blocks
from datasets import Dataset, DatasetDict
from extracting import corpus_of, extract_to, random_texts, signal_at

from consistency_lens.activations import Activations, CorruptShard, plain
from consistency_lens.activations.documents import SplitRules, split_of
from consistency_lens.activations.passages import PassageArguments, Passages
from consistency_lens.activations.passages.sinks import Shards
from consistency_lens.errors import BadInput

HELD_OUT = {"validation_fraction": 0.2, "test_fraction": 0.2}
SMALL = {"passage_words": 12, "prompt_words": 3, "answer_words": 4, "recall_share": 0.4}


def questions(texts: list[str], each: int = 3) -> Dataset:
    rows = [
        {"passage": text if i % 2 else f"  {text.upper()}", "prompt": f"q{i}", "answer": f"a{i}"}
        for text in texts
        for i in range(each)
    ]
    return Dataset.from_list(rows).shuffle(0)


def normal(text: str) -> str:
    return " ".join(text.lower().split())


def apart(passages: Passages) -> None:
    seen = {split: {normal(text) for text in rows["passage"]} for split, rows in passages.splits.items()}
    assert len(seen) == 3
    assert all(not one & other for one, other in combinations(seen.values(), 2))


def test_questions_of_one_passage_stay_together() -> None:
    texts = random_texts(60, shortest=20)
    passages = Passages.from_dataset(questions(texts), **HELD_OUT)
    apart(passages)
    assert sum(map(len, passages.splits.values())) == 180
    assert {split: each["documents"] for split, each in passages.metadata["splits"].items()} == {
        split: len(set(rows["doc_id"])) for split, rows in passages.splits.items()
    }
    numbers = [number for rows in passages.splits.values() for number in set(rows["doc_id"])]
    assert len(numbers) == len(set(numbers)) == 60
    for split, rows in passages.splits.items():
        assert list(rows["row"]) == list(range(len(rows)))
        rules = SplitRules.of(PassageArguments(**HELD_OUT))
        assert {split_of(text, rules) for text in rows["passage"]} == {split}


def test_windows_of_one_document_stay_together_and_repeated_ones_in_one_split() -> None:
    shared = " ".join(f"shared{i}" for i in range(12))
    texts = [f"{shared} {text}" for text in random_texts(60, shortest=40)]
    passages = Passages.of_corpus(corpus_of(texts), PassageArguments(**SMALL, **HELD_OUT))
    apart(passages)
    documents = {split: set(rows["doc_id"]) for split, rows in passages.splits.items()}
    assert all(not one & other for one, other in combinations(documents.values(), 2))
    holding = [split for split, rows in passages.splits.items() if shared in set(rows["passage"])]
    repeated = passages.metadata["repeated_in_another_split"]
    assert len(holding) == 1 and 60 - list(passages.splits[holding[0]]["passage"]).count(shared) == repeated > 5


def test_near_duplicates_are_counted() -> None:
    texts = random_texts(40, shortest=60)
    near = [f"{text} once more" for text in texts]
    rules = PassageArguments(**SMALL, **HELD_OUT)
    assert Passages.of_corpus(corpus_of(texts), rules).metadata["near_duplicates"]["all"] == 0
    counts = Passages.of_corpus(corpus_of(texts + near), rules).metadata["near_duplicates"]
    assert counts["all"] >= 35 and counts["test"] > 3


def test_what_gave_no_example_is_counted() -> None:
    texts = [*random_texts(30, shortest=40), "short", ""]
    assert Passages.of_corpus(corpus_of(texts), PassageArguments(**SMALL)).metadata["documents_left_out"] == 2


def test_splits_that_are_given_stay() -> None:
    texts = random_texts(6, shortest=20)
    given = DatasetDict({"train": questions(texts[:4]), "test": questions(texts[4:])})
    passages = Passages.from_dataset(given)
    assert {split: len(rows) for split, rows in passages.splits.items()} == {"train": 12, "test": 6}
    assert set(passages.splits["train"]["doc_id"]) & set(passages.splits["test"]["doc_id"]) == set()
    assert passages.metadata["corpus"].keys() == {"corpus", "train", "test"}


def test_a_passage_in_two_given_splits_is_refused() -> None:
    texts = random_texts(4, shortest=20)
    given = DatasetDict({"train": questions(texts[:3]), "test": questions(texts[2:])})
    with pytest.raises(BadInput, match=r"a passage of test stands in train, too\. Leave it in one split"):
        Passages.from_dataset(given)
    with pytest.raises(BadInput, match=r"dataset='dev': an unknown split"):
        Passages.from_dataset(DatasetDict({"train": questions(texts), "dev": questions(texts)}))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"passage": "p", "prompt": "q"}], r"dataset='answer': the column is missing; there are passage, prompt"),
        ([{"text": "p", "prompt": "q", "answer": "a"}], r"dataset='passage'.*Add a column passage: the text"),
        ([{"passage": "p", "prompt": "q", "answer": ""}], r"document 0: an answer is missing or empty"),
        ([{"passage": "p", "prompt": "q", "answer": "a", "task": "qa"}], r"task='qa'"),
        ([{"passage": "p", "prompt": "q", "answer": 3}], r"answers=3: document 0 holds a int\. Give strings"),
    ],
)
def test_rows_that_are_no_examples_are_refused(rows: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Passages.from_dataset(Dataset.from_list(rows))


def test_something_else_than_a_dataset_is_refused() -> None:
    with pytest.raises(BadInput, match=r"dataset='list'\. Give a Dataset or a DatasetDict"):
        Passages.from_dataset([{"passage": "p"}])


def test_a_folder_gives_back_what_was_saved(tmp_path: Path) -> None:
    passages = Passages.from_dataset(questions(random_texts(30, shortest=20)), **HELD_OUT)
    again = Passages.load(passages.save(tmp_path / "p"))
    assert {split: rows.to_list() for split, rows in again.splits.items()} == {
        split: rows.to_list() for split, rows in passages.splits.items()
    }
    assert again.metadata == {**passages.metadata, "shards": again.metadata["shards"]}
    with pytest.raises(BadInput, match="it is not empty"):
        passages.save(tmp_path / "p")
    passages.save(tmp_path / "p", overwrite=True)


def test_rows_that_go_to_a_folder_are_those_of_memory(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(random_texts(600, shortest=14, longest=30)))
    arguments = PassageArguments(train_file=[str(file)], **SMALL, **HELD_OUT)
    memory, folder = Passages.build(arguments), Passages.build(arguments, tmp_path / "p")
    assert all(rows.cache_files for rows in folder.splits.values()), "memory-mapped"
    assert {split: rows.to_list() for split, rows in folder.splits.items()} == {
        split: rows.to_list() for split, rows in memory.splits.items()
    }
    assert {**folder.metadata, "shards": 0} == {**memory.metadata, "shards": 0}
    with pytest.raises(BadInput, match="it is not empty"):
        Passages.build(arguments, tmp_path / "p")
    Passages.build(arguments, tmp_path / "p", overwrite=True)


def test_full_shards_are_written_while_rows_come(tmp_path: Path) -> None:
    sink, rows = Shards(tmp_path, rows=8), Passages.from_dataset(questions(random_texts(20, shortest=9)))
    train = rows.splits["train"].with_format("arrow")
    for start in range(0, 20, 5):
        sink.add("train", train[start : start + 5])
    files = sorted(file.name for file in tmp_path.glob("train/*"))
    assert files == ["data-00000.arrow", "data-00001.arrow"], "of 10 rows each"
    sink.add("train", train[20:23])
    counts = {"train": {"documents": 20, "rows": 23}}
    sink.finish(rows.splits["train"].features, {**rows.metadata, "splits": counts})
    assert Passages.load(tmp_path).splits["train"].to_list() == train.with_format(None).to_list()[:23]


def test_a_build_that_fails_leaves_no_folder_that_opens(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    good = {"context": "a b", "question": "q", "answers": {"text": ["a"]}}
    file.write_text("\n".join(json.dumps(each) for each in (good, good | {"context": " "})))
    arguments = PassageArguments(train_file=[str(file)], passage_format="squad")
    with pytest.raises(BadInput, match="document 1: empty"):
        Passages.build(arguments, tmp_path / "p")
    with pytest.raises(BadInput, match="Make them again, with --overwrite"):
        Passages.load(tmp_path / "p")
    file.write_text("\n".join(json.dumps(good) for _ in range(3)))
    arguments = PassageArguments(train_file=[str(file)], passage_format="squad", seed=3)
    assert len(Passages.build(arguments, tmp_path / "p", overwrite=True).splits["train"]) == 3


def built(folder: str, source: str, kill_at: int = 0, room: int = 0, **more: Any) -> Passages:
    """For a process of its own: killed at a change of the folder, or where no file may grow beyond `room`."""
    if kill_at:
        signal_at(kill_at, folder)
    if room:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        with pytest.raises(BadInput, match=r"no room left to write data-00000\.arrow.*made again, with --overwrite"):
            Passages.build(PassageArguments(train_file=[source], **SMALL, **HELD_OUT), folder)
        raise SystemExit(3)
    return Passages.build(PassageArguments(train_file=[source], **SMALL, **HELD_OUT), folder, **more)


def test_a_kill_or_a_full_disk_leaves_no_folder_that_opens_and_it_is_made_again(tmp_path: Path) -> None:
    source = tmp_path / "texts.txt"
    source.write_text("\n".join(random_texts(60, shortest=20)))
    built(str(tmp_path / "whole"), str(source))
    whole = written_blocks(tmp_path / "whole")
    for name, given, code in [
        ("first", (1, 0), -9),
        ("third", (8, 0), -9),
        ("last", (24, 0), -9),
        ("full", (0, 5000), 3),
    ]:
        folder = tmp_path / name
        assert elsewhere(built, str(folder), str(source), *given) == code, name
        with pytest.raises(BadInput, match=r"is not finished|no extraction lies there"):
            Passages.load(folder)
        built(str(folder), str(source), overwrite=True)
        assert written_blocks(folder) == whole, name


def test_a_stream_of_rows_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = questions(random_texts(10, shortest=20))
    given, stream = Passages.from_dataset(rows, **HELD_OUT), rows.to_iterable_dataset()
    again = Passages.from_dataset(stream, **HELD_OUT)
    assert {s: own.to_list() for s, own in again.splits.items()} == {
        s: own.to_list() for s, own in given.splits.items()
    }
    assert len(Passages.of(stream).splits["train"]) == len(rows), "a trainer takes all of it"
    monkeypatch.setattr(plain, "MOST_OF_A_STREAM", 9)
    with pytest.raises(BadInput, match=r"dataset='IterableDataset': it has more than 9 rows.*dataset\.take\(9\)"):
        Passages.from_dataset(stream)


def test_splits_are_saved_in_any_order(tmp_path: Path) -> None:
    texts = random_texts(6, shortest=20)
    given = DatasetDict({"test": questions(texts[:2]), "train": questions(texts[2:])})
    again = Passages.load(Passages.from_dataset(given).save(tmp_path / "p"))
    assert {split: len(rows) for split, rows in again.splits.items()} == {"train": 12, "test": 6}


def test_a_damaged_folder_is_named(tmp_path: Path) -> None:
    folder = Passages.from_dataset(questions(random_texts(30, shortest=20)), **HELD_OUT).save(tmp_path / "p")
    file = folder / "train/data-00000.arrow"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptShard, match=r"train/data-00000\.arrow is changed"):
        Passages.load(folder)
    with pytest.raises(BadInput, match="no extraction lies there"):
        Passages.load(tmp_path)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("extraction.json", '"seed": 0', '"seed": 1'),
        ("dataset_dict.json", '"train"', '"trian"'),
        ("train/state.json", "data-00000", "data-00001"),
    ],
)
def test_a_small_file_that_was_changed_is_named(tmp_path: Path, file: str, old: str, new: str) -> None:
    folder = Passages.from_dataset(questions(random_texts(30, shortest=20))).save(tmp_path / "p")
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    with pytest.raises(CorruptShard, match=rf"{file} is changed"):
        Passages.load(folder)


def test_passages_and_activations_are_not_taken_for_each_other(tmp_path: Path) -> None:
    folder = Passages.from_dataset(questions(random_texts(30, shortest=20))).save(tmp_path / "p")
    with pytest.raises(BadInput, match=r"the folder holds passages.*another family"):
        Activations.load(folder)
    rows = extract_to(tmp_path / "rows", random_texts(40))
    assert rows.provenance.sites
    with pytest.raises(BadInput, match=r"the folder holds rows, not passages"):
        Passages.load(tmp_path / "rows")


def test_a_part_of_the_rows_is_saved_as_it_is(tmp_path: Path) -> None:
    passages = Passages.from_dataset(questions(random_texts(30, shortest=20)), **HELD_OUT)
    some = passages.splits["train"].select([5, 3, 8])
    folder = Passages(DatasetDict({"train": some}), passages.metadata).save(tmp_path / "p")
    again = Passages.load(folder)
    assert list(again.splits["train"]["row"]) == [5, 3, 8]
    assert again.metadata["splits"] == {"train": {"documents": len(set(some["doc_id"])), "rows": 3}}
