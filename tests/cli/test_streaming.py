"""Training on rows that are read meanwhile: rows and losses are those of a stored folder, resumed or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from extracting import corpus_of, extract_to, extraction_of, random_texts, write_jsonl
from lens_runs import arguments, tiny_lens
from tiny import tiny_lm

from consistency_lens.activations import Activations, Corpus, CorpusArguments
from consistency_lens.cli.parsing.request import parse
from consistency_lens.cli.streaming import require_streamable, streamed
from consistency_lens.errors import BadInput
from consistency_lens.text.trainer import ConsistencyLensTrainer

TEXTS = random_texts(90, shortest=8, longest=20)
GIVEN = {"continuation_length": 4}
STEPS = 6


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Activations:
    """All rows. A stream takes its held-out ones, and the mean, from fewer."""
    return extract_to(tmp_path_factory.mktemp("all") / "rows", TEXTS, tiny_lm(), **GIVEN)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Activations:
    return extract_to(tmp_path_factory.mktemp("few") / "rows", TEXTS[:40], tiny_lm(), **GIVEN)


def stream_of(frozen: Any, **options: Any) -> IterableDataset:
    rows = extraction_of(corpus_of(TEXTS), lm=frozen, **GIVEN).stream(frozen, **options)
    return rows.shuffle(seed=0, buffer_size=30).repeat(None)


def in_order_of(rows: IterableDataset, stored: Activations, few: Activations) -> Activations:
    """Stored rows, as many as the run will see, in the order of a stream."""
    where = {(row["doc_id"], row["position"]): i for i, row in enumerate(stored.splits["train"])}
    seen = [where[int(row["doc_id"]), int(row["position"])] for row in rows.take(6 * (STEPS + 1))]
    splits = DatasetDict({**few.splits, "train": Dataset.from_list(stored.splits["train"].select(seen).to_list())})
    splits["train"] = splits["train"].cast(stored.splits["train"].features)
    return Activations(splits, few.metadata, few.statistics)


def run(folder: Path, make: Any, resume: str | None = None, **changes: Any) -> list[float]:
    frozen = tiny_lm()
    given = arguments(folder, max_steps=STEPS, **({"save_strategy": "no"} | changes))
    trainer = ConsistencyLensTrainer(tiny_lens(frozen), given, make(frozen), frozen=frozen)
    trainer.train(resume)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_losses_are_those_of_the_stored_rows(stored: Activations, few: Activations, tmp_path: Path) -> None:
    def streaming(frozen: Any) -> Activations:
        return few.streaming(stream_of(frozen))

    def lying(frozen: Any) -> Activations:
        return in_order_of(stream_of(frozen), stored, few)

    expected = run(tmp_path / "stored", lying, train_sampling_strategy="sequential")
    found = run(tmp_path / "streamed", streaming, save_strategy="steps", save_steps=3)
    assert len(found) == STEPS and found == expected
    assert run(tmp_path / "again", streaming, str(tmp_path / "streamed" / "checkpoint-3")) == expected
    assert len({round(loss, 4) for loss in found}) == STEPS


def test_what_is_held_out_is_never_streamed(stored: Activations, few: Activations) -> None:
    frozen = tiny_lm()
    held_out = {row["doc_id"] for name in ("validation", "test") for row in few.splits[name]}
    count = len(stored.splits["train"])
    streamed = [int(row["doc_id"]) for row in stream_of(frozen).take(2 * count)]
    assert held_out and held_out.isdisjoint(streamed)
    assert sorted(streamed[:count]) == sorted(streamed[count:]) == sorted(stored.splits["train"]["doc_id"])


def test_reading_happens_within_what_holds_the_weights(few: Activations) -> None:
    frozen, calls = tiny_lm(), []

    def within(read: Any) -> Any:
        calls.append(torch.is_grad_enabled())
        return read()

    next(iter(stream_of(frozen, within=within)))
    assert calls


def test_a_stream_needs_an_end_and_rows_that_are_held_out(few: Activations, tmp_path: Path) -> None:
    frozen = tiny_lm()
    rows = few.streaming(stream_of(frozen))
    with pytest.raises(BadInput, match="max_steps=-1"):
        ConsistencyLensTrainer(tiny_lens(frozen), arguments(tmp_path, max_steps=-1), rows, frozen=frozen)
    bare = Activations(DatasetDict({"train": rows.splits["train"]}), few.metadata, few.statistics)
    with pytest.raises(BadInput, match="eval_dataset=None: a stream is not looked at twice"):
        ConsistencyLensTrainer(tiny_lens(frozen), arguments(tmp_path), bare, frozen=frozen)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "activations=None"),
        (["--activations", "rows"], "max_steps=-1"),
        (["--activations", "rows", "--max_steps", "5", "--stream_buffer", "0"], "stream_buffer=0"),
    ],
)
def test_what_a_stream_lacks_is_said_before_anything_is_read(words: list[str], named: str) -> None:
    request = parse(["train", "--dataset_name", "texts", "--stream_activations", *words])
    with pytest.raises(BadInput, match=named):
        require_streamable(request)


def test_another_corpus_than_that_of_the_stored_rows_is_refused(tmp_path: Path) -> None:
    frozen = tiny_lm()
    for name in ("one", "other"):
        write_jsonl(tmp_path / f"{name}.jsonl", TEXTS[:40])
    rows = extract_to(tmp_path / "rows", Corpus.load(CorpusArguments(train_file=[str(tmp_path / "one.jsonl")])))
    named = ["--activations", str(tmp_path / "rows"), "--max_steps", "5", "--stream_activations"]
    request = parse(["train", "--train_file", str(tmp_path / "other.jsonl"), *named])
    with pytest.raises(BadInput, match=r"other\.jsonl.*corpus of the stored rows"):
        streamed(request, rows, frozen, lambda read: read())


def test_another_configuration_of_the_same_dataset_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("easy", "hard"):
        write_jsonl(data / f"{name}.jsonl", TEXTS[:40])
    listed = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("easy", "hard"))
    (data / "README.md").write_text(f"---\nconfigs:\n{listed}---\n")
    easy = CorpusArguments(dataset_name=str(data), dataset_config="easy")
    frozen, rows = tiny_lm(), extract_to(tmp_path / "rows", Corpus.load(easy))
    words = ["train", "--dataset_name", str(data), "--activations", str(tmp_path / "rows"), "--max_steps", "5"]
    request = parse([*words, "--dataset_config", "hard", "--stream_activations"])
    with pytest.raises(BadInput, match="dataset_config='hard': config of the stored rows is easy"):
        streamed(request, rows, frozen, lambda read: read())
    request = parse([*words, "--dataset_config", "easy", "--stream_activations"])
    assert isinstance(streamed(request, rows, frozen, lambda read: read()).splits["train"], IterableDataset)
