"""The suffix test: passages of the same document, and which of them the model finds likelier, against whole passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny import shared_lm, tiny_tokenizer

from consistency_lens.text.parts.generation import Words
from consistency_lens.text.sceptic.suffix import CHOICES, LENGTH, Documents, picked

BOS = 1


def documents(*lengths: int, following: int = LENGTH) -> tuple[Documents, list[list[int]]]:
    """Random documents, each with a row in the middle and one up to its end."""
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(4, 96, (n,), generator=generator).tolist() for n in lengths]
    rows: list[dict[str, Any]] = []
    for name, text in enumerate(texts):
        for end in (len(text) // 2, len(text) - following):
            rows.append({"doc_id": name, "input_ids": text[:end], "continuation_ids": text[end : end + following]})
    return Documents(Dataset.from_list(rows), tiny_tokenizer()), texts


def test_passages_are_of_the_same_document_and_keep_away_from_the_true_one() -> None:
    held, texts = documents(60, 25)
    found = held.passages(0, texts[0][:30], seed=3)
    assert found is not None and found.shape == (CHOICES, LENGTH)
    assert found[0].tolist() == texts[0][30:38]
    windows = {tuple(texts[0][s : s + LENGTH]): s for s in range(60 - LENGTH + 1)}
    starts = [windows[tuple(row)] for row in found.tolist()]
    assert len(set(starts)) == CHOICES and all(abs(s - 30) >= LENGTH for s in starts[1:])
    assert torch.equal(found, held.passages(0, texts[0][:30], seed=3)) and not torch.equal(
        found, held.passages(0, texts[0][:30], seed=4)
    )
    assert held.passages(1, texts[1][:12], seed=3) is None, "a document of 25 tokens holds too few others"
    assert held.passages(0, texts[0][:56], seed=3) is None, "what comes behind P is cut off"
    assert held.passages(0, texts[0][5:30], seed=3) is None, "its context begins in the middle"


def test_a_topic_is_frequent_here_and_rare_elsewhere() -> None:
    tokens = tiny_tokenizer()
    texts = ["w1 w1 w1 w2 w2 w3", "w1 w1 w4 w5 w5", "w1 w6"]
    rows = [
        {"doc_id": i, "input_ids": tokens(t, add_special_tokens=False)["input_ids"], "continuation_ids": []}
        for i, t in enumerate(texts)
    ]
    held = Documents(Dataset.from_list(rows), tokens)
    assert [held.topic(i) for i in range(3)] == ["w2", "w5", "w6"]


@pytest.mark.parametrize("case", ["llama", "gpt2"])
def test_what_is_picked_is_what_whole_passes_say(case: str) -> None:
    lm = shared_lm(case)
    generator = torch.Generator().manual_seed(1)
    passages = [torch.randint(4, 96, (CHOICES, LENGTH), generator=generator) for _ in range(10)]
    texts = [torch.randint(4, 96, (n,), generator=generator).tolist() for n in (5, 3, 0, 5, 1, 2, 4, 5, 3, 5)]
    ids = torch.tensor([[*t, *[0] * (5 - len(t))] for t in texts])
    mask = torch.tensor([[1] * len(t) + [0] * (5 - len(t)) for t in texts])
    found = picked({"lens": Words(ids, mask)}, [*passages[:9], None], lm, BOS)["lens"]

    def likelihood(told: list[int], passage: list[int]) -> float:
        logits = lm.logits({"input_ids": torch.tensor([[BOS, *told, *passage]])})[0].float().log_softmax(-1)
        return float(sum(logits[len(told) + i, token] for i, token in enumerate(passage)))

    for row in range(9):
        gain = [likelihood(texts[row], p) - likelihood([], p) for p in passages[row].tolist()]
        expected = 1 / CHOICES if not texts[row] else float(max(range(CHOICES), key=gain.__getitem__) == 0)
        assert float(found[row]) == pytest.approx(expected), row
    assert found[9].isnan()
    assert 0 < found[:9].sum() < 9 or case == "gpt2"
