"""Texts that are made for all rows at once are those that each row would get by itself."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, load_from_disk
from lens_runs import rows_folder, tiny_rows
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import shared_lm

from consistency_lens.activations import Activations
from consistency_lens.frozen import FrozenLM
from consistency_lens.text.configuration import ConsistencyLensConfig
from consistency_lens.text.starting import prepared
from consistency_lens.text.starting.prepared import PreparedTexts
from consistency_lens.text.starting.texts import StartingTexts


@pytest.fixture
def lm() -> FrozenLM:
    return shared_lm("llama")


@pytest.fixture
def config(lm: FrozenLM) -> ConsistencyLensConfig:
    return ConsistencyLensConfig.for_subject(lm, "resid_post.1", code_length=5, prompt="w1 <A> w2")


def prepare(dataset: Dataset, lm: FrozenLM, config: ConsistencyLensConfig, kind: str = "span") -> PreparedTexts:
    return PreparedTexts.of(dataset, lambda contexts: StartingTexts.of(kind, contexts, config, lm), config.pad_id)


@pytest.mark.parametrize("kind", ["context", "onward", "span"])
def test_each_row_has_its_own(kind: str, lm: FrozenLM, config: ConsistencyLensConfig) -> None:
    rows = tiny_rows().splits["train"]
    found = prepare(rows, lm, config, kind)
    assert len(found) == len(rows)
    for row in (rows[i] for i in range(0, len(rows), 7)):
        ids = torch.tensor([row["input_ids"]])
        alone = StartingTexts.of(kind, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, config, lm)
        (here,) = [found.find([(row["doc_id"], row["position"])], torch.device("cpu"))]
        assert torch.equal(here.words.ids, alone.words.ids) and torch.equal(here.words.mask, alone.words.mask)
        assert int(here.tail) == int(alone.tail)


def test_the_batches_depend_on_the_rows_alone(
    monkeypatch: pytest.MonkeyPatch, lm: FrozenLM, config: ConsistencyLensConfig
) -> None:
    """Whatever order they come in; and a batch holds about as many tokens, and as many rows, as it may."""
    monkeypatch.setattr(prepared, "TOKENS", 200)
    monkeypatch.setattr(prepared, "ROWS", 12)
    rows = tiny_rows().splits["train"]
    seen: list[list[tuple[int, ...]]] = []

    def make(contexts: dict[str, torch.Tensor]) -> StartingTexts:
        real = contexts["attention_mask"].bool()
        assert contexts["input_ids"].numel() <= 200 and len(real) <= 12
        seen.append([tuple(ids[mask].tolist()) for ids, mask in zip(contexts["input_ids"], real, strict=True)])
        return StartingTexts.of("context", contexts, config, lm)

    for dataset in (rows, rows.shuffle(seed=3)):
        PreparedTexts.of(dataset, make, config.pad_id)
    half = len(seen) // 2
    lengths = [len(row) for batch in seen[:half] for row in batch]
    assert half > 5 and lengths == sorted(lengths)
    assert seen[:half] == seen[half:] and 12 in map(len, seen)


def test_what_was_made_is_found_again_beside_the_rows(
    tmp_path: Path, lm: FrozenLM, config: ConsistencyLensConfig
) -> None:
    """By the same rows and the same recipe; anything else is made anew."""
    shutil.copytree(rows_folder("llama"), tmp_path / "rows", ignore=shutil.ignore_patterns("starting-texts-*"))
    rows, made = load_from_disk(tmp_path / "rows")["train"], 0

    def make(contexts: dict[str, torch.Tensor]) -> StartingTexts:
        nonlocal made
        made += 1
        return StartingTexts.of("onward", contexts, config, lm)

    def prepared_by(recipe: dict[str, Any], dataset: Dataset = rows) -> PreparedTexts:
        return PreparedTexts.of(dataset, make, config.pad_id, recipe=recipe)

    first = prepared_by({"kind": "onward"})
    for again, fresh in ((first, True), (prepared_by({"kind": "onward"}), False)):
        assert (made > 0) is fresh and torch.equal(again.texts.words.ids, first.texts.words.ids)
        assert torch.equal(again.texts.words.mask, first.texts.words.mask)
        assert torch.equal(again.texts.tail, first.texts.tail)
        made = 0
    for other in ({"recipe": {"kind": "span"}}, {"recipe": {"kind": "onward"}, "dataset": rows.select(range(9))}):
        prepared_by(**other)
        assert made > 0
        made = 0
    assert len(list((tmp_path / "rows").rglob("starting-texts-*"))) == 3
    assert not list((tmp_path / "rows").rglob("*.part"))
    assert len(Activations.load(tmp_path / "rows").splits["train"]) == len(rows)


@pytest.mark.parametrize("damage", ["cut off", "changed", "of other rows"])
def test_what_is_not_as_it_was_written_is_made_again(
    damage: str, tmp_path: Path, lm: FrozenLM, config: ConsistencyLensConfig, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(rows_folder("llama"), tmp_path / "rows", ignore=shutil.ignore_patterns("starting-texts-*"))
    rows = load_from_disk(tmp_path / "rows")["train"]

    def prepared() -> PreparedTexts:
        def make(contexts: dict[str, torch.Tensor]) -> StartingTexts:
            return StartingTexts.of("onward", contexts, config, lm)

        return PreparedTexts.of(rows, make, config.pad_id, recipe={"kind": "onward"})

    first = prepared()
    (file,) = (tmp_path / "rows").rglob("starting-texts-*")
    if damage == "cut off":
        file.write_bytes(file.read_bytes()[:-9])
    else:
        with safe_open(file, "pt") as stored:
            said = stored.metadata()
        tensors = load_file(file)
        tensors = {n: t[1:].clone() for n, t in tensors.items()} if damage == "of other rows" else tensors
        tensors["tail"][0] += 1
        save_file(tensors, file, metadata=said)
    again = prepared()
    assert torch.equal(again.texts.words.ids, first.texts.words.ids)
    assert torch.equal(again.texts.tail, first.texts.tail)
    assert [record.message for record in caplog.records if "These texts are made again" in record.message]
    caplog.clear()
    prepared()
    assert "made again" not in caplog.text, "the new ones are whole"
