"""The truth about any text of the demo world, and other words for it that say the same."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from consistency_lens.demo.stories import Story
from consistency_lens.demo.words import FACT_WORDS, KINDS, NEUTRAL, wordings

CHANGE_SHARE = 0.7  # how often each change that could be made is made


@dataclass(frozen=True)
class Mention:
    """A fact word at word `index` of a text, with the canonical value it stands for."""

    kind: str
    value: str
    index: int


def mentions(text: str) -> list[Mention]:
    """Every fact word of a text, synonyms resolved."""
    return [Mention(*FACT_WORDS[word], index) for index, word in enumerate(text.split()) if word in FACT_WORDS]


def is_true(row: Story, mention: Mention) -> bool:
    """Whether a value that a text names is a value of the story."""
    return any((fact.kind, fact.value) == (mention.kind, mention.value) for fact in row.facts)


def _words_of(kind: str) -> str:
    """A pattern for any word of a kind."""
    return "(?:" + "|".join(word for value in KINDS[kind] for word in wordings(kind, value)) + ")"


_COLOUR, _HERO, _FEELING = (_words_of(kind) for kind in ("colour", "hero", "feeling"))
_OBJECT = f"(?:{_words_of('object')}|wagon)"
_NOUN = "(?:" + "|".join([*map(_words_of, ("friend", "place", "animal", "food")), _OBJECT]) + ")"
_PHRASE = rf"(?:(?:a|the|some) )?(?:{_COLOUR} )?(?:{_NOUN}|{_HERO})(?: that (?:is|was) {_COLOUR})?"
_BE = "(?:is|was)"
_OWNER = "(?:the (?:child|kid|friend|companion))"
_WHO = rf"(?:the (?:child|kid)|{_HERO})"
_ROLE = "(?:child|kid|friend|companion|pet|place|food|home)"
_ONE = rf"(?:(?:the|a|some) )?(?:{_COLOUR} )?(?:{_ROLE}|{_NOUN}|{_HERO})"
_CLAUSE = rf"(?:{_ONE} (?:is|was|has|had|feels|felt|owns) (?!of|the name)[^.,:;!?]*?)"
_START, _END = r"(?:(?<=^)|(?<=[.:;!?] )|(?<=, ))", r"(?=$| [.,:;!?])"

# pattern -> the same in another order. Each pattern sees whole words only; groups carry the fact words over.
_ORDERS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(rf"(?<!\S)(?:{pattern})(?!\S)"), replacement)
    for pattern, replacement in (
        (rf"{_START}(?P<a>{_CLAUSE}) and (?P<b>{_CLAUSE}){_END}", r"\g<b> and \g<a>"),
        (rf"(?P<d>a|the) (?P<c>{_COLOUR}) (?P<o>{_OBJECT})", r"\g<d> \g<o> that is \g<c>"),
        (rf"(?P<d>a|the) (?P<o>{_OBJECT}) that {_BE} (?P<c>{_COLOUR})", r"\g<d> \g<c> \g<o>"),
        (rf"{_START}(?P<o>the {_OBJECT}) (?P<be>{_BE}) (?P<c>{_COLOUR}){_END}", r"\g<c> \g<be> the colour of \g<o>"),
        (rf"{_START}(?P<c>{_COLOUR}) (?P<be>{_BE}) the colour of (?P<o>the {_OBJECT}){_END}", r"\g<o> \g<be> \g<c>"),
        (rf"(?P<w>{_OWNER}) had (?P<p>a {_PHRASE}){_END}", r"\g<p> belonged to \g<w>"),
        (rf"{_START}(?P<p>a {_PHRASE}) belonged to (?P<w>{_OWNER}){_END}", r"\g<w> had \g<p>"),
        (rf"the (?:child|kid) (?P<be>{_BE}) (?:called|named) (?P<h>{_HERO})", r"the name of the child \g<be> \g<h>"),
        (rf"the name of the (?:child|kid) (?P<be>{_BE}) (?P<h>{_HERO})", r"the child \g<be> called \g<h>"),
        (rf"{_START}(?P<w>{_WHO}) (?P<v>feels|felt) (?P<f>{_FEELING}){_END}", r"\g<f> is how \g<w> \g<v>"),
        (rf"{_START}(?P<f>{_FEELING}) {_BE} how (?P<w>{_WHO}) (?P<v>feels|felt){_END}", r"\g<w> \g<v> \g<f>"),
        (
            rf"{_START}(?P<r>the {_ROLE}(?: of the (?:child|kid))?) (?P<be>{_BE}) (?P<p>(?:the |a )?{_NOUN}){_END}",
            r"\g<p> \g<be> \g<r>",
        ),
        (
            rf"{_START}(?P<p>(?:the |a )?{_NOUN}) (?P<be>{_BE}) (?P<r>the {_ROLE}(?: of the (?:child|kid))?){_END}",
            r"\g<r> \g<be> \g<p>",
        ),
        (rf"(?P<a>{_PHRASE}) and (?P<b>{_PHRASE}){_END}", r"\g<b> and \g<a>"),
    )
)  # fmt: skip


def reword(text: str | Sequence[str], seed: int) -> str:
    """Say the same in other words and another order. Works on whole stories and on loose fragments."""
    words = text if isinstance(text, str) else " ".join(text)
    rng = random.Random(f"reword/{seed}/{words}")
    return " ".join(_other_word(word, rng) for word in _reorder(words, rng).split())


def _other_word(word: str, rng: random.Random) -> str:
    """A synonym, for most of the words that have one."""
    if word in FACT_WORDS:
        others = [other for other in wordings(*FACT_WORDS[word]) if other != word]
        return rng.choice(others) if others and rng.random() < CHANGE_SHARE else word
    return NEUTRAL[word] if word in NEUTRAL and rng.random() < CHANGE_SHARE else word


def _reorder(text: str, rng: random.Random) -> str:
    """One order per sentence: the first that fits and that chance allows, so that no change undoes another."""
    return " ".join(_reorder_sentence(part, rng) for part in re.findall(r"[^.!?]+[.!?]?", " ".join(text.split())))


def _reorder_sentence(sentence: str, rng: random.Random) -> str:
    """Apply one of the orders that fit."""
    sentence = sentence.strip()
    fitting = [(pattern, replacement) for pattern, replacement in _ORDERS if pattern.search(sentence)]
    if not fitting or rng.random() >= CHANGE_SHARE:
        return sentence
    pattern, replacement = rng.choice(fitting)
    return pattern.sub(replacement, sentence, count=1)
