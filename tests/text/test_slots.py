"""One word changed: the right one, in every text that has it, and by a word that differs."""

from __future__ import annotations

import torch

from consistency_lens.text.parts.generation import Words
from consistency_lens.text.sceptic.slots import changed_in_front, one_word_changed, replaced

WORDS = Words(
    torch.tensor([[5, 6, 7, 8], [9, 6, 4, 0], [5, 3, 0, 0], [5, 6, 0, 0]]),
    torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0]]),
)


def test_a_word_is_replaced_by_another_that_stands_there_elsewhere() -> None:
    for slot in range(4):
        for seed in range(5):
            found = replaced(WORDS, slot, seed)
            assert torch.equal(found.mask, WORDS.mask)
            others = [i for i in range(4) if i != slot]
            assert torch.equal(found.ids[:, others], WORDS.ids[:, others])
            there = WORDS.ids[:, slot][WORDS.mask[:, slot].bool()]
            for before, after, kept in zip(WORDS.ids[:, slot], found.ids[:, slot], WORDS.mask[:, slot], strict=True):
                if not kept or len(there.unique()) == 1:
                    assert before == after, "there is no word, or no other one"
                else:
                    assert before != after and after in there


def test_all_changes_have_their_names() -> None:
    found = one_word_changed(WORDS, seed=3, pad_id=0)
    assert set(found) == {
        *(f"slot_{i}" for i in (1, 2, 3, 4)),
        *(f"slot_{i}_dropped" for i in (1, 2, 3)),
        "slots_1_2_exchanged",
        "slots_2_3_exchanged",
    }
    assert found["slot_1_dropped"].ids.tolist() == [[6, 7, 8, 0], [6, 4, 0, 0], [3, 0, 0, 0], [6, 0, 0, 0]]
    assert found["slots_2_3_exchanged"].ids.tolist() == [[5, 7, 6, 8], [9, 4, 6, 0], [5, 3, 0, 0], [5, 6, 0, 0]]


def test_the_first_words_are_compared_as_words() -> None:
    before, after = ["a b c", "a b c", "a", "x y"], ["a b d", "a c b", "b", "x"]
    assert changed_in_front(before, after).tolist() == [False, True, True, True]
