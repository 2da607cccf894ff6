"""Other words, same truth."""

from __future__ import annotations

from collections import Counter

import pytest

from consistency_lens.demo.reword import Mention, is_true, mentions, reword
from consistency_lens.demo.stories import stories, story
from consistency_lens.demo.tokenizer import vocabulary

FRAGMENTS = [
    "the ball is red and mia is sad",
    "a red kite and a blue drum",
    "in short : the child is called leo and the pet is a fox .",
    "fox fox red , the the harbour",
    "mia has a crimson lamp that is",
    "the place is the forest and the food is soup",
    "a lamp that is navy belonged to the child",
    "the name of the child was zoe",
    "sad",
]


def said(text: str) -> Counter[tuple[str, str]]:
    return Counter((mention.kind, mention.value) for mention in mentions(text))


def test_mentions_resolve_synonyms() -> None:
    assert mentions("the crimson kite of mia") == [
        Mention("colour", "red", 1), Mention("object", "kite", 2), Mention("hero", "mia", 4),
    ]  # fmt: skip
    assert mentions("nothing of the kind") == []


def test_is_true_of_a_story() -> None:
    row = story(0, 0)
    for text in (row.text, reword(row.text, 5)):
        assert len(mentions(text)) > 4 and all(is_true(row, mention) for mention in mentions(text))
    values = {(fact.kind, fact.value) for fact in row.facts}
    assert ("hero", "zoe") not in values
    assert not is_true(row, Mention("hero", "zoe", 0))


@pytest.mark.parametrize("seed", range(3))
def test_stories_keep_what_they_say(seed: int) -> None:
    vocab = vocabulary()
    rows = stories(1000, seed=seed)
    changed = 0
    for row in rows:
        other = reword(row.text, seed)
        assert said(other) == said(row.text), (row.text, other)
        assert all(word in vocab for word in other.split()), other
        changed += other != row.text
    assert changed > 0.99 * len(rows)


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_fragments_keep_what_they_say(fragment: str) -> None:
    others = [reword(fragment, seed) for seed in range(40)]
    assert all(said(other) == said(fragment) for other in others)
    assert sum(other != fragment for other in others) > 20
    assert reword(fragment.split(), 7) == reword(fragment, 7)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("a red ball", "a ball that is red"),
        ("a ball that is red", "a red ball"),
        ("the ball is red and mia is sad", "mia is sad and the ball is red"),
        ("the child is called mia", "the name of the child is mia"),
        ("the child had a fox", "a fox belonged to the child"),
        ("a red kite belonged to the child .", "the child had a red kite ."),
        ("the pet of the child was a fox .", "a fox was the pet of the child ."),
        ("mia feels sad", "sad is how mia feels"),
        ("the kite is red", "red is the colour of the kite"),
        ("the fox and the dog", "the dog and the fox"),
    ],
)
def test_known_orders(text: str, other: str) -> None:
    """Some seed gives the other order; words are compared by what they mean."""

    def canonical(words: str) -> str:
        plain = {"kid": "child", "named": "called", "companion": "friend"}
        values = {mention.index: mention.value for mention in mentions(words)}
        return " ".join(values.get(i, plain.get(word, word)) for i, word in enumerate(words.split()))

    assert canonical(other) in {canonical(reword(text, seed)) for seed in range(30)}


def test_binding_is_not_crossed() -> None:
    """The colour stays with its thing, whatever is swapped."""
    for seed in range(50):
        words = [m.value for m in mentions(reword("the kite is red and the drum is blue", seed))]
        pairs = {frozenset(words[:2]), frozenset(words[2:])}
        assert pairs == {frozenset({"kite", "red"}), frozenset({"drum", "blue"})}


def test_deterministic() -> None:
    text = story(0, 1).text
    assert reword(text, 1) == reword(text, 1) != reword(text, 2)
