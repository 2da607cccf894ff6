"""Each fact word of an explanation is counted where it stands first: at P, in sight, next, or nowhere near."""

from __future__ import annotations

from dataclasses import asdict

import torch

from consistency_lens.demo.judging.beyond import BeyondJudge
from consistency_lens.demo.stories import Fact
from consistency_lens.demo.tokenizer import vocabulary

FACTS = [asdict(Fact("place", "forest", 3)), asdict(Fact("animal", "dog", 7)), asdict(Fact("colour", "red", 2))]


def test_words_by_place() -> None:
    known = vocabulary()
    context = "the dog walked near the river and then went home to the cave"  # the dog is out of sight
    ids = torch.tensor([[0, 0, *(known[word] for word in context.split())]])
    rows = {
        "facts": [FACTS],
        "input_ids": ids,
        "attention_mask": (ids > 0).long(),
        "continuation_ids": torch.tensor([[known["woods"], known["."]]]),
    }
    found = BeyondJudge().judge(["cave forest dog blue red"], rows)
    value = {name: float(above.sum() / below.sum()) for name, (above, below) in found.items() if below.sum()}
    # "cave" is P's own, "forest" comes next under another word, the rest is beyond; blue is made up.
    assert value["words_at_p"] == value["words_next"] == 1 / 5 and value["words_beyond"] == 3 / 5
    assert value["words_visible"] == 0 and "precision_visible" not in value
    assert value["precision_at_p"] == 0 and value["precision_next"] == 1
    assert abs(value["precision_beyond"] - 2 / 3) < 1e-9
    assert set(found) <= set(BeyondJudge.definitions)
