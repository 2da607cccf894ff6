"""Which way a text looks, by hand."""

from __future__ import annotations

import torch
from test_stored_rows import words

from consistency_lens.text.sceptic.past import about_past, is_continuation


def test_a_continuation_is_one_with_or_without_the_token_at_p() -> None:
    said = words(*[[9, 5, 6, 7]] * 6)
    texts = words([9, 5, 6, 7], [5, 6], [9, 5], [9], [6, 5], [])
    found = is_continuation(texts, said, torch.tensor([9] * 6))
    assert found.tolist() == [1, 1, 1, 0, 0, 0]


def test_words_of_the_past_stand_in_the_context_and_not_in_what_comes_next() -> None:
    """`wagon` and `blue` have come before, `blue` comes again; `was` is short, `horse` is nowhere."""
    texts = ["The wagon was blue, a horse", "it is", "Wagon wagon"]
    above, below = about_past(texts, ["a Blue wagon near"] * 3, ["blue and"] * 3)
    assert (above.tolist(), below.tolist()) == ([1, 0, 2], [3, 0, 2])
