"""A generated world of short stories whose truth is known: facts are stated early, in any wording, and needed late."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from consistency_lens.demo.grammar import FILLERS, GROUPS, NEEDED, STATED, SUMMARY, SUMMARY_OPENERS
from consistency_lens.demo.words import FACT_WORDS, KINDS, LEXICON, NEUTRAL, VAGUE, commonness, wordings
from consistency_lens.errors import BadInput

if TYPE_CHECKING:
    from datasets import Dataset

MIN_TOKENS, MAX_TOKENS = 60, 120  # with <bos>
WINDOW = 8  # the last WINDOW tokens never hold what a fact position needs
SUMMARY_SHARE = 0.4
SYNONYM_SHARE = 0.25
NEUTRAL_SHARE = 0.3
# Nobody who speaks says everything. What is left open is said in one word, which is likelier than any single value: so
# a model of these stories that does not know has a word for it, as models of real language have.
VAGUE_SHARE = 0.15


@dataclass(frozen=True)
class Fact:
    """Something that is true of one story. `stated_at` is the token index (<bos> is 0) of its first word."""

    kind: str
    value: str
    stated_at: int


@dataclass(frozen=True)
class FactPosition:
    """`facts[fact]` is what the token after `position` says, and nothing near `position` gives it away."""

    position: int
    fact: int


@dataclass(frozen=True)
class Story:
    """One story with everything that is true of it."""

    doc_id: int
    text: str
    facts: tuple[Fact, ...]
    fact_positions: tuple[FactPosition, ...]

    @property
    def words(self) -> list[str]:
        """The words of the story; word `i` is token `i + 1`, since <bos> comes first."""
        return self.text.split()


@dataclass
class _Draft:
    """A story while it is written: words so far, when each slot was said, which slots are needed again."""

    rng: random.Random
    values: dict[str, str]  # what has no value is left open
    words: list[str] = field(default_factory=list)
    stated_at: dict[str, int] = field(default_factory=dict)
    needed: list[tuple[int, str]] = field(default_factory=list)

    def write(self, sentence: str) -> None:
        """Append a sentence of the grammar, filling its slots."""
        for token in sentence.split():
            if token.startswith("["):
                choices = LEXICON[token[1:-1]]
                word = self._neutral(self.rng.choices(choices, commonness(len(choices)))[0])
            elif token.startswith("{"):
                word = self._fact_word(token[1:-1])
            else:
                word = self._neutral(token)
            self.words.append(word)

    def _neutral(self, word: str) -> str:
        """Now and then the other word for the same thing, so that the LM meets both."""
        return NEUTRAL[word] if word in NEUTRAL and self.rng.random() < NEUTRAL_SHARE else word

    def _fact_word(self, slot: str) -> str:
        """A first statement in any wording, a later one in the canonical word."""
        kind, index = slot.removeprefix("~"), len(self.words) + 1
        if kind not in self.values:
            return VAGUE
        value = self.values[kind]
        if kind not in self.stated_at:
            self.stated_at[kind] = index
            synonyms = wordings(kind, value)[1:]
            return self.rng.choice(synonyms) if synonyms and self.rng.random() < SYNONYM_SHARE else value
        if not slot.startswith("~") and self.is_far(kind):
            self.needed.append((index - 1, kind))
        return value

    def is_far(self, kind: str, ahead: int = 0) -> bool:
        """Whether the last WINDOW tokens, `ahead` words from now, are free of every word for this value."""
        recent = self.words[-(WINDOW - ahead) :] if ahead < WINDOW else []
        return not set(recent) & set(wordings(kind, self.values[kind]))


def _slots(sentence: str) -> Iterator[tuple[int, str]]:
    """Where in a sentence which fact word stands."""
    for offset, token in enumerate(sentence.split()):
        if token.startswith("{"):
            yield offset, token[1:-1].removeprefix("~")


def _choose_groups(rng: random.Random) -> list[str]:
    """What a story tells: the hero first, then others in any order."""
    others = [group for group in GROUPS if group != "hero"]
    return ["hero", *rng.sample(others, rng.choice((4, 5)))]


def _draft(rng: random.Random, told: list[str], vague_share: float = 0.0) -> _Draft:
    """State some facts and leave others open, let time pass, need some of them again, and perhaps sum up."""
    stated = [group for group in told if group == "hero" or rng.random() >= vague_share]
    draft = _Draft(rng, {kind: rng.choice(list(KINDS[kind])) for group in stated for kind in GROUPS[group]})
    for group in told:
        draft.write(rng.choice(STATED[group]))
        if rng.random() < 0.15:
            draft.write(rng.choice(FILLERS))
    for group in rng.sample(stated, min(len(stated), rng.choice((3, 4)))):
        if rng.random() < 0.25:
            draft.write(rng.choice(FILLERS))
        sentence = rng.choice(NEEDED[group])
        while not all(draft.is_far(kind, ahead) for ahead, kind in _slots(sentence)):
            draft.write(rng.choice(FILLERS))
        draft.write(sentence)
    if "hero" in stated and len(stated) > 1 and rng.random() < SUMMARY_SHARE:
        first, second = (rng.choice(SUMMARY[group]) for group in rng.sample(stated, 2))
        draft.write(f"{rng.choice(SUMMARY_OPENERS)} {first} and {second} .")
    return draft


def story(seed: int, index: int) -> Story:
    """The story number `index` of the world `seed`; it depends on no other story."""
    rng = random.Random(f"{seed}/{index}")
    draft = _draft(rng, _choose_groups(rng), VAGUE_SHARE)
    while not MIN_TOKENS <= len(draft.words) + 1 <= MAX_TOKENS:
        draft = _draft(rng, _choose_groups(rng), VAGUE_SHARE)
    return _finish(draft, index)


def short_tale(seed: int, index: int, num_groups: int) -> Story:
    """A tale of `num_groups` groups of facts, a fraction of a story's length: what the subject learns to read on."""
    rng = random.Random(f"short/{seed}/{index}/{num_groups}")
    return _finish(_draft(rng, rng.sample(list(GROUPS), num_groups)), index)


def _finish(draft: _Draft, index: int) -> Story:
    """The story with its truth, facts in the order in which they were stated."""
    kinds = sorted(draft.stated_at, key=lambda kind: draft.stated_at[kind])
    facts = tuple(Fact(kind, draft.values[kind], draft.stated_at[kind]) for kind in kinds)
    positions = tuple(FactPosition(position, kinds.index(kind)) for position, kind in draft.needed)
    return Story(index, " ".join(draft.words), facts, positions)


def stories(num_stories: int, seed: int, start: int = 0) -> list[Story]:
    """Stories number `start`, `start + 1`, ... of the world `seed`."""
    if num_stories < 1:
        raise BadInput("num_stories", num_stories, "Ask for at least one story.")
    return [story(seed, start + index) for index in range(num_stories)]


def story_dataset(num_stories: int, seed: int = 0, start: int = 0) -> Dataset:
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


def all_words() -> list[str]:
    """Every word a story may contain, in a fixed order."""
    of_groups = [s for table in (STATED, NEEDED, SUMMARY) for group in table for s in table[group]]
    sentences = [*FILLERS, *SUMMARY_OPENERS, *of_groups]
    plain = {token for sentence in sentences for token in sentence.split() if token[0] not in "[{"}
    return sorted(
        plain | {VAGUE} | set(FACT_WORDS) | set(NEUTRAL) | {word for words in LEXICON.values() for word in words}
    )
