"""Rows tokenised for the models of a run: what does not fit is refused, or cut when asked; so is another tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from passage_models import passage_models
from tiny import tiny_lm

from consistency_lens.activations.passages import Passages, PromptFormat
from consistency_lens.errors import BadInput
from consistency_lens.frozen import ProvenanceMismatch

MODELS = passage_models()
WORDS = {"words": MODELS["words"]}


def passages(passage: str, answer: str = "w7", task: str = "answer") -> Passages:
    rows = [{"passage": passage, "prompt": "w1", "answer": answer, "task": task}]
    return Passages.from_dataset(Dataset.from_list(rows), validation_fraction=0, test_fraction=0)


def first(found: Passages) -> dict[str, Any]:
    return found.splits["train"][0]


LONG = " ".join(f"w{i}" for i in range(8, 90)) + " w7 " + " ".join(f"w{i}" for i in range(8, 60))


def test_a_passage_beyond_the_context_is_refused_with_what_to_do() -> None:
    said = (
        r"passage='w8 .*document 0 \(answer\) has 141 tokens for words "
        r"\(135 of passage, 3 of prompt, 2 of answer\)\. It takes at most 128\. Cut passages with max_passage_tokens"
    )
    with pytest.raises(BadInput, match=said):
        passages(LONG).tokenised(WORDS)
    with pytest.raises(BadInput, match=r"document 0 \(recall\).*Make them of fewer --passage_words"):
        passages(LONG, task="recall").tokenised(WORDS)


def test_the_room_ends_exactly_where_the_model_does() -> None:
    bare = PromptFormat(opening={}, anchor={})  # <bos>, passage, w1, w7, <eos>
    fits = " ".join(["w9"] * 124)
    assert len(first(passages(fits).tokenised(WORDS, bare))["words.passage_ids"]) == 124
    with pytest.raises(BadInput, match="has 129 tokens"):
        passages(f"{fits} w9").tokenised(WORDS, bare)


def test_a_passage_that_no_model_reads_as_text_may_be_longer() -> None:
    found = passages(LONG).tokenised(WORDS, as_text=False)
    assert first(found)["passage"] == LONG and len(first(found)["words.passage_ids"]) == 135
    with pytest.raises(BadInput, match=r"has 134 tokens for words \(3 of prompt, 130 of answer\).*max_answer_tokens"):
        passages("w8", answer=" ".join(["w9"] * 129)).tokenised(WORDS, as_text=False)


@pytest.mark.parametrize("limit", [20, 40, 64])
def test_the_window_with_the_answer_is_cut_out_when_asked(limit: int) -> None:
    found = passages(LONG).tokenised(MODELS, max_passage_tokens=limit)
    row = first(found)
    assert row["passage"] in LONG and "w7" in row["passage"].split() and row["cut"]
    assert all(0 < len(row[f"{name}.passage_ids"]) <= limit for name in MODELS)
    assert max(len(row[f"{name}.passage_ids"]) for name in MODELS) > limit - 8, "a window is as long as it may be"
    assert found.metadata["tokens"]["passages_cut"] == 1
    assert found.metadata["tokens"]["cut_without_an_answer"] == 0


def test_a_cut_that_loses_the_answer_is_counted() -> None:
    found = passages(LONG, answer="x3").tokenised(MODELS, max_passage_tokens=30)
    assert LONG.startswith(first(found)["passage"])
    words = passages(LONG.replace("w8 ", "w3 ", 1), answer="w3")
    assert words.tokenised(MODELS, max_passage_tokens=30).metadata["tokens"]["cut_without_an_answer"] == 0
    assert found.metadata["tokens"]["cut_without_an_answer"] == 1


def test_what_fits_is_not_cut() -> None:
    found = passages("w8 w9").tokenised(MODELS, max_passage_tokens=30)
    assert first(found)["passage"] == "w8 w9" and not first(found)["cut"]
    assert found.metadata["tokens"]["passages_cut"] == 0


@pytest.mark.parametrize(
    ("task", "limit", "said"),
    [
        ("answer", 0, r"max_passage_tokens=0\. Use 1 or more, or None"),
        ("answer", 1, r"max_passage_tokens=1: the word 'w8' has more tokens\. Use more"),
        ("recall", 20, r"document 0 has a longer passage\. Make passages of fewer --passage_words"),
    ],
)
def test_cuts_that_cannot_be_are_refused(task: str, limit: int, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        passages(LONG, task=task).tokenised(MODELS, max_passage_tokens=limit)


def test_the_order_of_models_does_not_matter_and_a_part_of_them_will_do() -> None:
    found = passages("w8 w9").tokenised(MODELS)
    found.require_models(dict(reversed(MODELS.items())))
    assert list(found.collator(WORDS)([first(found)])["tokens"]) == ["words"]


def test_a_model_without_a_mapping_goes_by_its_own_name() -> None:
    lm = MODELS["words"]
    found = passages("w8 w9").tokenised(lm)
    assert list(found.metadata["tokens"]["models"]) == [lm.name]
    found.require_models([lm])
    found.require_models({lm.name: lm})


def test_other_tokenizers_are_refused_with_both_sides() -> None:
    found = passages("w8 w9").tokenised(MODELS)
    with pytest.raises(ProvenanceMismatch, match=r"differ in their tokenizers") as error:
        found.collator({"words": MODELS["bytes"]})
    lines = str(error.value).splitlines()
    marked = [line for line in lines if line.startswith("!")]
    assert [line.split()[1] for line in marked] == ["words.tokenizer", "words.bos"]
    assert all(len(line.split()) == 4 for line in marked), "both sides stand there"
    with pytest.raises(ProvenanceMismatch, match=r"! +another\.tokenizer"):
        found.require_models({"another": MODELS["words"]})


def test_a_tokenizer_that_learned_a_word_is_another_one() -> None:
    found, lm = passages("w8 w9").tokenised(WORDS), tiny_lm("llama")
    found.require_models({"words": lm})
    lm.tokenizer.add_tokens(["w500"])
    with pytest.raises(ProvenanceMismatch):
        found.require_models({"words": lm})


def test_rows_that_hold_no_ids_are_refused() -> None:
    with pytest.raises(BadInput, match=r"no ids yet\. Tokenise them first"):
        passages("w8 w9").collator(MODELS)
    with pytest.raises(BadInput, match=r"models='words\.answer_ids': the rows hold such a column already"):
        passages("w8 w9").tokenised(WORDS).tokenised(WORDS)


def test_ids_and_tokenizers_are_saved_too(tmp_path: Path) -> None:
    found = passages("w8 w9").tokenised(MODELS, PromptFormat(anchor={"answer": " :"}), max_passage_tokens=30)
    again = Passages.load(found.save(tmp_path / "p"))
    assert first(again) == first(found)
    collate = again.collator(MODELS)
    assert collate.prompts == PromptFormat(anchor={"answer": " :"})
    assert collate([first(again)])["tokens"]["words"]["passage_ids"].tolist() == [[12, 13]]


def test_a_stored_folder_is_tokenised_once(tmp_path: Path) -> None:
    stored = Passages.load(passages("w8 w9").save(tmp_path / "p"))
    one, again = stored.tokenised(MODELS), stored.tokenised(MODELS)
    other = stored.tokenised(MODELS, PromptFormat(anchor={}))
    files = [each.splits["train"].cache_files for each in (one, again, other)]
    assert files[0] == files[1] != files[2], "the cache goes by contents, tokenizers and prompts"
    assert first(one) == first(again) != first(other)
