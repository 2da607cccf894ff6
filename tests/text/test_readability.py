"""Text in the place that it is about: the context judges quotes, and the frozen model what else is said there."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from lens_runs import first_batch, trainer_of

from consistency_lens.text.parts.generation import Words
from consistency_lens.text.readability import MISQUOTED, surprise_in_place
from consistency_lens.text.starting.warm_start import Doubt


def test_a_quote_is_judged_by_the_context_and_a_general_word_says_nothing_false(tmp_path: Path) -> None:
    """Rows 1 and 4 say the general word in a quote, 4 since it stands there; row 2 misquotes; row 3 says it later."""
    trainer = trainer_of(tmp_path, warm_start="span", warm_vague="w9", warm_sure=0.3, ground_weight="0.1")
    batch, frozen, vague = first_batch(trainer), trainer.frozen, trainer.texts.doubt.word
    batch["input_ids"][4, -2] = vague
    prefix, rows = frozen.prefix(batch), len(batch["pair"])
    said = prefix.input_ids[:, -2:].clone()  # a span of 5 tokens quotes two
    assert trainer.texts.quoted == 2 and (said == vague).sum() == 1
    said[1, 0], said[2, 0] = vague, 40 + int(said[2, 0] == 40)
    ids = torch.nn.functional.pad(said, (0, 3), value=50)
    ids[3, 3] = vague
    found = surprise_in_place(prefix, Words(ids, torch.ones_like(ids)), 2, trainer.texts.doubt)
    price = -math.log(0.3)
    for row in range(rows):
        own = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        context = torch.cat([own[:-2], ids[row]])[None]
        chances = frozen.logits({"input_ids": context})[0].log_softmax(-1)
        start = len(own) - 3
        nll = [-float(chances[start + t, token]) for t, token in enumerate(ids[row].tolist())]
        expected = [0.0, 0.0, *nll[2:]]
        if row == 1:
            expected[0] = min(price, nll[0])
        if row == 2:
            expected[0] = nll[0] + MISQUOTED
        if row == 3:
            assert nll[3] > price
            expected[3] = price
        assert float(found[row]) == pytest.approx(sum(expected) / 5, rel=1e-3)


def test_a_general_word_that_is_likely_costs_no_more_than_its_surprise(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, warm_start="none")
    batch = first_batch(trainer)
    prefix = trainer.frozen.prefix(batch)
    ids = prefix.logits()[:, 0].argmax(-1, keepdim=True)
    plain, general = (
        surprise_in_place(prefix, Words(ids, torch.ones_like(ids)), 0, Doubt(1e-3, word))
        for word in (None, int(ids[0]))
    )
    assert torch.equal(plain, general) and float(plain[0]) < -math.log(1e-3)
