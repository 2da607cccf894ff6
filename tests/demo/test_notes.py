"""Notes of the demo world, and the two small models that answer questions about them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from consistency_lens.demo.reading.notes import ANSWERED, ASKED, PAIRS, note, note_dataset, note_words, words_of
from consistency_lens.demo.reading.readers import (
    READERS,
    REPORT_FILE,
    batch_of,
    reader_named,
    reader_path,
    reader_tokenizer,
    train_reader,
)
from consistency_lens.errors import BadInput
from consistency_lens.finding import find_subject
from consistency_lens.frozen import FrozenLM

QUICK = replace(READERS["left"], hidden_size=16, num_layers=1, num_heads=2, steps=2, batch_size=4, min_accuracy=0.0)


def test_a_note_says_each_fact_once_and_nothing_else() -> None:
    for number in range(30):
        about = note(3, number)
        words = about.text.split()
        assert len(words) == 2 * len(PAIRS) and about == note(3, number)
        for question, kinds in PAIRS.items():
            pair = about.answer(question, turned=False).split()
            assert words[words.index(pair[0]) :][:2] == pair
            assert all(word in words_of(kind) for word, kind in zip(pair, kinds, strict=True))
            assert about.answer(question, turned=True).split() == pair[::-1]
    assert note(3, 0) != note(4, 0) and len({tuple(note(3, i).pairs) for i in range(30)}) > 5


def test_rows_are_those_of_squad_and_depend_on_seed_and_number_alone() -> None:
    rows = note_dataset(3, seed=1, start=5).to_list()
    assert len(rows) == 3 * len(PAIRS) and rows[len(PAIRS) :] == note_dataset(2, seed=1, start=6).to_list()
    first = rows[0]
    assert first["context"] == note(1, 5).text and first["question"] == "child"
    assert [" ".join(answer.split()[::-1]) for answer in first["answers"]["text"]] == first["answers"]["text"][::-1]
    with pytest.raises(BadInput, match="num_notes"):
        note_dataset(0)


def test_the_two_models_number_their_words_differently() -> None:
    left, right = (reader_tokenizer(config) for config in READERS.values())
    text = f"{note(0, 0).text} {ASKED} pet {ANSWERED}"
    ids = [tokenizer(text)["input_ids"] for tokenizer in (left, right)]
    assert len(ids[0]) == len(ids[1]) + 1 and ids[0][0] == left.bos_token_id and right.bos_token_id is None
    assert not set(zip(ids[0][1:], ids[1], strict=True)) & {(i, i) for i in range(400)}
    for tokenizer, own in zip((left, right), ids, strict=True):
        assert tokenizer.unk_token_id not in own and tokenizer.decode(own, skip_special_tokens=True) == text
        assert set(note_words()) <= set(tokenizer.get_vocab())


def test_a_batch_asks_about_fresh_notes_some_of_them_cut() -> None:
    tokenizer = reader_tokenizer(QUICK)
    widths = set()
    for step in range(30):
        ids, answers = batch_of(QUICK, tokenizer, step)
        assert torch.equal(ids, batch_of(QUICK, tokenizer, step)[0]) and answers == 3
        assert (ids[:, -1] == tokenizer.eos_token_id).all() and (ids[:, 0] == tokenizer.bos_token_id).all()
        widths.add(ids.shape[1])
    assert max(widths) == 1 + 8 + 3 + 3 and len(widths) > 3


def test_a_reader_is_trained_once_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    folder = reader_path(QUICK, progress=False)
    assert {"config.json", "model.safetensors", REPORT_FILE} <= {path.name for path in folder.iterdir()}
    assert json.loads((folder / REPORT_FILE).read_text())["config"]["hidden_size"] == 16
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert reader_path(QUICK, progress=False) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    monkeypatch.setitem(READERS, "left", QUICK)
    origin = FrozenLM.from_pretrained(folder).provenance("embed")
    assert find_subject(origin).model_id == folder.name
    monkeypatch.setitem(READERS, "left", replace(QUICK, seed=9))
    with pytest.raises(BadInput, match="another version of the demo world"):
        find_subject(origin)


def test_a_reader_that_cannot_answer_is_refused() -> None:
    with pytest.raises(RuntimeError, match="nothing was cached"):
        train_reader(replace(QUICK, min_accuracy=0.9, held_out=20), progress=False)
    with pytest.raises(BadInput, match="left, right"):
        reader_named("middle")
