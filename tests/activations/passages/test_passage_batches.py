"""Batches for several models: every label sits under the column that predicts it, and padding changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset
from passage_models import passage_models
from torch.nn import functional as F
from torch.utils.data import DataLoader

from consistency_lens.activations.passages import PassageCollator, Passages, PassageTokenizer, PromptFormat, context_of
from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit, FrozenLM
from consistency_lens.objectives import answer_nll_of

MODELS = passage_models()
ROWS: list[dict[str, Any]] = [
    {"passage": "w1 w2 w3 w4 the fox", "prompt": "w2", "answers": ["w3 w4"], "task": "answer", "ends": True},
    {"passage": "the dog", "prompt": "", "answers": ["dog", "the dog"], "task": "answer", "ends": True},
    {"passage": "w5 w6 w7 w8 w9", "prompt": "w5 w6", "answers": [" w7 w8 w9"], "task": "recall", "ends": False},
    {"passage": "w1 w2 w3", "prompt": "", "answers": ["w1 w2 w3"], "task": "reconstruction", "ends": True},
    {"passage": "w1 the", "prompt": " lazy", "answers": [" dog"], "task": "continuation", "ends": False},
]


def collator(**prompts: Any) -> PassageCollator:
    return PassageCollator(PassageTokenizer.of(MODELS), **prompts)


def own(ids: torch.Tensor, mask: torch.Tensor) -> list[int]:
    return ids[mask.bool()].tolist()


def whole(row: dict[str, Any], name: str, sequence: str) -> tuple[list[int], list[int]]:
    """Ids before the answer, and of the answer."""
    model, make = PassageTokenizer.of(MODELS)[name], collator()
    ids = make.prompts.ids(row, model)
    passage = ids["passage_ids"] if sequence == "full" else []
    return model.bos_ids + passage + ids["prompt_ids"], ids["answer_ids"]


def test_texts_stay_beside_the_tokens() -> None:
    batch = collator()([row | {"doc_id": i, "row": i + 1} for i, row in enumerate(ROWS)])
    assert batch["doc_id"].tolist() == [0, 1, 2, 3, 4] and batch["row"].tolist() == [1, 2, 3, 4, 5]
    for name in ("passage", "prompt", "answers", "task"):
        assert batch[name] == [row[name] for row in ROWS]
    assert list(batch["tokens"]) == list(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_padding_changes_no_ids(name: str) -> None:
    together = collator()(ROWS)["tokens"][name]
    for i, row in enumerate(ROWS):
        alone = collator()([row])["tokens"][name]
        for part in ("passage", "answer"):
            ids, mask = f"{part}_ids", f"{part}_mask"
            assert own(together[ids][i], together[mask][i]) == own(alone[ids][0], alone[mask][0])
            assert alone[mask].all()
        for sequence in ("full", "bare"):
            before, answer = whole(row, name, sequence)
            found = together[sequence]
            assert own(found["input_ids"][i], found["attention_mask"][i])[: len(before)] == before
            context = {key: value[i] for key, value in context_of(together, sequence).items()}
            assert own(context["input_ids"], context["attention_mask"]) == before
            assert own(together["answer_ids"][i], together["answer_mask"][i]) == answer
            assert (alone[sequence]["input_ids"][0].tolist(), alone["bos"]) == (
                before + answer[:-1],
                together["bos"],
            )


@pytest.mark.parametrize("name", MODELS)
def test_generation_begins_in_the_last_column(name: str) -> None:
    batch = collator()(ROWS)["tokens"][name]
    for sequence in ("full", "bare"):
        assert context_of(batch, sequence)["attention_mask"][:, -1].all()


@pytest.mark.parametrize("sequence", ["full", "bare"])
@pytest.mark.parametrize("name", MODELS)
def test_a_batch_generates_what_each_row_generates_alone(name: str, sequence: str) -> None:
    lm = MODELS[name]
    together = lm.generate(context_of(collator()(ROWS)["tokens"][name], sequence), max_new_tokens=3)
    for i, row in enumerate(ROWS):
        before, _ = whole(row, name, sequence)
        alone = lm.generate({"input_ids": torch.tensor([before])}, max_new_tokens=3)
        assert own(together.ids[i], together.mask[i]) == own(alone.ids[0], alone.mask[0])


def test_a_pad_that_is_the_eos_costs_no_eos() -> None:
    model = PassageTokenizer.of(MODELS)["bytes"]
    assert model.pad_id == model.eos_id
    batch = collator()(ROWS)["tokens"]["bytes"]
    for row, ids, mask in zip(ROWS, batch["answer_ids"], batch["answer_mask"], strict=True):
        answer = own(ids, mask)
        assert (answer[-1] == model.eos_id) is row["ends"]
        assert answer.count(model.eos_id) == row["ends"]


@torch.no_grad()
def by_hand(lm: FrozenLM, before: list[int], answer: list[int]) -> float:
    """The cross-entropy of one answer after one context, each token from a pass of its own."""
    found = []
    for i, token in enumerate(answer):
        logits = lm.model(torch.tensor([before + answer[:i]])).logits[0, -1]
        found.append(F.cross_entropy(logits, torch.tensor(token)).item())
    return sum(found) / len(found)


@pytest.mark.parametrize("sequence", ["full", "bare"])
@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_that_of_one_token_after_another(name: str, sequence: str) -> None:
    batch, lm = collator()(ROWS)["tokens"][name], MODELS[name]
    ids, mask = batch["answer_ids"], batch["answer_mask"]
    logits = lm.logits(batch[sequence], keep=ids.shape[1])
    expected = [by_hand(lm, *whole(row, name, sequence)) for row in ROWS]
    assert answer_nll_of(logits, ids, mask).tolist() == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize("preamble", ["", "w8 Notes:"])
@pytest.mark.parametrize("name", MODELS)
def test_embeddings_in_the_passages_place_are_the_full_sequence(name: str, preamble: str) -> None:
    lm, rows = MODELS[name], [ROWS[2], ROWS[2] | {"prompt": "w9", "answers": ["w1"], "ends": True}]
    batch = collator(prompts=PromptFormat(preamble=preamble))(rows)["tokens"][name]
    assert (batch["front"] > batch["bos"]) is bool(preamble)
    count = batch["answer_ids"].shape[1]
    value = lm.model.get_input_embeddings()(batch["passage_ids"])
    edit = Edit("embed", value, batch["front"], "prepend")
    spliced, text = lm.logits(batch["bare"], edit, keep=count), lm.logits(batch["full"], keep=count)
    kept = batch["answer_mask"].bool()
    torch.testing.assert_close(spliced[kept], text[kept], rtol=1e-4, atol=1e-4)


def passages(rows: list[dict[str, Any]] = ROWS, copies: int = 12) -> Passages:
    more = [row | {"passage": f"{row['passage']} w{10 + i}"} for i in range(copies) for row in rows]
    return Passages.from_dataset(Dataset.from_list(more), validation_fraction=0.2, test_fraction=0.1)


@pytest.mark.parametrize("form", [None, "torch"])
def test_rows_tokenised_before_give_the_same_batches(form: str | None) -> None:
    plain = passages()
    stored = plain.tokenised(MODELS)
    assert "words.passage_ids" in stored.splits["train"].column_names
    rows = [plain.splits["train"][i] for i in range(9)]
    fast = [stored.splits["train"].with_format(form)[i] for i in range(9)]
    slow_batch, fast_batch = collator()(rows), stored.collator(MODELS)(fast)
    assert torch.equal(slow_batch["doc_id"], fast_batch["doc_id"])
    for name, slow in slow_batch["tokens"].items():
        quick = fast_batch["tokens"][name]
        assert torch.equal(slow["passage_ids"], quick["passage_ids"])
        assert torch.equal(slow["answer_mask"], quick["answer_mask"])
        for sequence in ("full", "bare"):
            assert torch.equal(slow[sequence]["input_ids"], quick[sequence]["input_ids"])
            assert torch.equal(slow[sequence]["attention_mask"], quick[sequence]["attention_mask"])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_loader_makes_the_same_batches_each_time(workers: int) -> None:
    stored = passages().tokenised({"words": MODELS["words"]})

    def batches() -> list[dict[str, Any]]:
        order = torch.Generator().manual_seed(3)
        collate = stored.collator({"words": MODELS["words"]})
        rows = stored.splits["train"]
        return list(DataLoader(rows, 7, shuffle=True, generator=order, collate_fn=collate, num_workers=workers))

    first, again = batches(), batches()
    assert len(first) > 3
    for one, other in zip(first, again, strict=True):
        assert one["passage"] == other["passage"]
        ours, theirs = (each["tokens"]["words"]["full"]["input_ids"] for each in (one, other))
        assert torch.equal(ours, theirs)


def test_no_rows_are_refused() -> None:
    with pytest.raises(BadInput, match="Give at least one row"):
        collator()([])
