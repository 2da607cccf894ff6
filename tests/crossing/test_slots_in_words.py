"""Soft tokens in words, of a wire whose vectors are known to be the embeddings of the text."""

from __future__ import annotations

import pytest
from lens_runs import tiny_lens
from tiny import shared_lm, tiny_lm
from wire_runs import wire_lens

from consistency_lens.crossing import words_of_slots
from consistency_lens.errors import BadInput

TEXTS = ["w1 w2 w3", "w9 w8 w7 w6"]


def test_vectors_that_are_embeddings_say_what_the_tokens_say() -> None:
    words, wire = tiny_lens(tiny_lm()), wire_lens(calibrate=False, ratio=1.0)
    expected = [[row["explanation"] for row in rows] for rows in words.explain(TEXTS)]
    found = words_of_slots(words, wire, TEXTS)
    assert [own[: len(rows)] for own, rows in zip(found, expected, strict=True)] == expected
    assert words_of_slots(words, wire, TEXTS[1]) == found[1:]
    assert [len(own) for own in words_of_slots(words, wire, TEXTS, ratio=2.0)] == [2, 2]


def test_what_reads_no_receiver_is_refused() -> None:
    wire = wire_lens(ratio=1.0)
    with pytest.raises(BadInput, match="it reads none of the receivers"):
        words_of_slots(tiny_lens(shared_lm("gpt2")), wire, TEXTS)
    with pytest.raises(BadInput, match="at least one word"):
        words_of_slots(tiny_lens(tiny_lm()), wire, ["w1", " "])
    wire.models = None
    with pytest.raises(BadInput, match="subject=None"):
        words_of_slots(tiny_lens(tiny_lm()), wire, TEXTS)
