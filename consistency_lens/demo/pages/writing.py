"""Stories on two pages: facts are stated on the first one, and needed on the second, early or late.

The sentences are those of the other stories of this world. A page is so many tokens, whatever stands on it: the first
one begins with <bos> and is filled up to its last token, its seal, with full stops.
"""

from __future__ import annotations

import random
from dataclasses import asdict
from typing import TYPE_CHECKING

from consistency_lens.demo.grammar import FILLERS, GROUPS, NEEDED, STATED
from consistency_lens.demo.stories import NEUTRAL_SHARE, SYNONYM_SHARE, WINDOW, Fact, FactPosition, Story
from consistency_lens.demo.words import KINDS, LEXICON, NEUTRAL, VAGUE, commonness, wordings
from consistency_lens.errors import BadInput

if TYPE_CHECKING:
    from datasets import Dataset

PAGES = "pages-"  # how the id of a model of these stories begins
PAGE = 48  # tokens
SEAL = PAGE - 1  # the position of the first page's last token
QUIET = 17  # tokens of a late second page that need no fact
LATE_SHARE = 0.7  # of the stories, whose second page needs nothing at first
FILLER_SHARE = 0.25
ALONE_SHARE = 0.5  # of the shortest stories, whose second page is the word of the fact alone
OPEN_SHARE = 0.05  # of what is needed, which the first page left open
STOP = "."


class _Page:
    """A page while it is written."""

    def __init__(self, rng: random.Random, first: int, room: int) -> None:
        self.rng, self.first, self.room = rng, first, room  # `first` is the position of its first word
        self.words: list[str] = []

    def fits(self, sentence: str) -> bool:
        return len(self.words) + len(sentence.split()) <= self.room

    def write(self, sentence: str, value: str | None = None) -> int:
        """A sentence of the grammar with a value in its slot; the position of that word, or of the sentence's end."""
        place = self.first + len(self.words) + len(sentence.split()) - 1
        for token in sentence.split():
            if token.startswith("{"):
                place = self.first + len(self.words)
                self.words.append(value or VAGUE)
            elif token.startswith("["):
                choices = LEXICON[token[1:-1]]
                self.words.append(self._neutral(self.rng.choices(choices, commonness(len(choices)))[0]))
            else:
                self.words.append(self._neutral(token))
        return place

    def _neutral(self, word: str) -> str:
        return NEUTRAL[word] if word in NEUTRAL and self.rng.random() < NEUTRAL_SHARE else word


def story(seed: int, index: int) -> Story:
    """The story number `index` of the world `seed`; it depends on no other story."""
    rng = random.Random(f"pages/{seed}/{index}")
    return _told(rng, index, PAGE, len(GROUPS), FILLER_SHARE, QUIET if rng.random() < LATE_SHARE else 0)


def short_story(seed: int, index: int, groups: int, page_length: int) -> Story:
    """A story of so many groups of facts on short pages, which needs them at once: the model learns to read on it.

    Of one fact the second page may say no more than its word. That teaches a seal to find it before any other token
    has learned to look at a seal.
    """
    rng = random.Random(f"pages/short/{seed}/{index}/{groups}")
    row = _told(rng, index, page_length, groups, 0.0, 0)
    if groups > 1 or rng.random() >= ALONE_SHARE:
        return row
    words = [*row.words[: page_length - 1], row.facts[0].value, STOP]
    return Story(index, " ".join(words), row.facts, (FactPosition(page_length - 1, 0),))


def _told(rng: random.Random, index: int, page_length: int, groups: int, fillers: float, quiet: int) -> Story:
    """Facts on the first page, as many as have room, in any order and any wording; then what is needed of them, each
    once, on a second page of which the first `quiet` tokens need nothing."""
    first, second = _Page(rng, 1, page_length - 1), _Page(rng, page_length, page_length - 1)
    facts: list[Fact] = []
    for group in rng.sample(list(GROUPS), groups):
        if rng.random() < fillers and first.fits(filler := rng.choice(FILLERS)):
            first.write(filler)
        if first.fits(sentence := rng.choice(STATED[group])):
            (kind,) = GROUPS[group]
            value = rng.choice(list(KINDS[kind]))
            synonyms = wordings(kind, value)[1:]
            said = rng.choice(synonyms) if synonyms and rng.random() < SYNONYM_SHARE else value
            facts.append(Fact(kind, value, first.write(sentence, said)))
    while len(second.words) < quiet:
        second.write(rng.choice(FILLERS))
    stated, needed = {fact.kind: number for number, fact in enumerate(facts)}, []
    for group in rng.sample(list(GROUPS), len(GROUPS)):
        (kind,) = GROUPS[group]
        known = stated.get(kind)
        if (known is not None or rng.random() < OPEN_SHARE) and second.fits(sentence := rng.choice(NEEDED[group])):
            place = second.write(sentence, facts[known].value if known is not None else None)
            if known is not None and place - facts[known].stated_at > WINDOW:
                needed.append(FactPosition(place - 1, known))
    filled = [*first.words, *[STOP] * (page_length - 1 - len(first.words))]
    return Story(index, " ".join([*filled, *second.words]), tuple(facts), tuple(needed))


def stories(num_stories: int, seed: int, start: int = 0) -> list[Story]:
    """Stories number `start`, `start + 1`, ... of the world `seed`."""
    if num_stories < 1:
        raise BadInput("num_stories", num_stories, "Ask for at least one story.")
    return [story(seed, start + index) for index in range(num_stories)]


def page_dataset(num_stories: int, seed: int = 0, start: int = 0) -> Dataset:
    """The same stories as rows: doc_id, text, facts, fact_positions."""
    from datasets import Dataset

    rows = stories(num_stories, seed, start)
    return Dataset.from_dict(
        {
            "doc_id": [row.doc_id for row in rows],
            "text": [row.text for row in rows],
            "facts": [[asdict(fact) for fact in row.facts] for row in rows],
            "fact_positions": [[asdict(position) for position in row.fact_positions] for row in rows],
        }
    )
