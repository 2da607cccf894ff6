"""`FactSentences`: the fact that comes next, another value put in its place, said in ways that no decoder has written.

At a row where the model is about to say a fact, each way gives a text that describes another value of that kind. A
model that understands the description says that value; one that has learned two slots does not.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from consistency_lens.demo.grammar import GROUPS, STATED, SUMMARY
from consistency_lens.demo.judging.judge import FACT_COLUMNS
from consistency_lens.demo.words import FACT_WORDS, KINDS, LEXICON, wordings
from consistency_lens.text.sceptic.follows import Asked

LONGEST = 8  # words of a text
SHORT = {
    **{"hero": "child is called {}", "place": "place is {}", "friend": "friend is {}", "object": "child has {}"},
    **{"colour": "wagon is {}", "animal": "pet is {}", "food": "food is {}", "feeling": "child feels {}"},
}
# Words without a fact, to stand before one that is moved.
PLAIN = ("the", "was", "it", "then", "there", "again", "near", "in")


class FactSentences:
    """Texts that describe another value than the one that the model is about to say.

    Only rows where the untouched model does say it, in its first word, are asked: there the activation holds it.
    """

    columns: Sequence[str] = FACT_COLUMNS
    ways: Mapping[str, str] = {
        "written": "the lens's own text with the fact's word replaced",
        "sentence": "another sentence of the world, such as 'the wagon is blue'",
        "slot": "the lens's own text with the word replaced and moved to another slot",
        "order": "the words of that text in any order",
        "synonym": "the lens's own text with another word for the same value",
        "two": "two facts at once, such as 'wagon is blue and pet is dog'",
        "negation": "the lens's own text with 'not' before the word: nobody should follow it",
        "nothing": "a sentence about a fact of another kind: what chance gives",
    }

    def texts(
        self, explanations: Sequence[str], predicted: Sequence[str], rows: Mapping[str, Sequence[Any]], seed: int
    ) -> dict[str, list[Asked | None]]:
        found: dict[str, list[Asked | None]] = {way: [] for way in self.ways}
        columns = (rows["position"], rows["facts"], rows["fact_positions"])
        for row, (position, facts, spots) in enumerate(zip(*columns, strict=True)):
            needed = next((facts[spot["fact"]] for spot in spots if spot["position"] == position), None)
            held = needed is not None and predicted[row].strip() == needed["value"]
            rng = random.Random(f"sentences/{seed}/{row}")
            said = said_otherwise(explanations[row], needed["kind"], needed["value"], rng) if held and needed else {}
            for way in self.ways:
                found[way].append(said.get(way))
        return found


def said_otherwise(explanation: str, kind: str, value: str, rng: random.Random) -> dict[str, Asked]:
    """Way -> a text that describes another value of this kind, and that value."""
    new = rng.choice([other for other in KINDS[kind] if other != value])
    other_kind = rng.choice([each for each in KINDS if each != kind])
    other = rng.choice(list(KINDS[other_kind]))
    pair = [SHORT[kind].format(new), SHORT[other_kind].format(other)]
    rng.shuffle(pair)
    texts = {
        "sentence": sentence(kind, new, rng),
        "two": " and ".join(pair),
        "nothing": sentence(other_kind, other, rng),
    }
    words = explanation.split()[:LONGEST]
    where = next((i for i, word in enumerate(words) if FACT_WORDS.get(word) == (kind, value)), None)
    if where is not None:
        words = [new if FACT_WORDS.get(word) == (kind, value) else word for word in words]
        rest = [word for word in words if word != new]
        synonyms = wordings(kind, new)[1:]
        texts |= {
            "written": " ".join(words),
            "negation": " ".join([*words[:where], "not", *words[where:]][:LONGEST]),
            "slot": moved(rest, new, where, rng),
            "order": " ".join(_shuffled(words, rng)),
        }
        if synonyms:
            texts["synonym"] = " ".join(rng.choice(synonyms) if word == new else word for word in words)
    return {way: Asked(text, new) for way, text in texts.items() if len(text.split()) <= LONGEST}


def sentence(kind: str, value: str, rng: random.Random) -> str:
    """A sentence of the world that states the fact, short enough for a text; without its full stop."""
    group = next(group for group, kinds in GROUPS.items() if kind in kinds)
    told = [each.removesuffix(" .") for each in (*STATED[group], *SUMMARY[group]) if "{~" not in each]
    fitting = [each for each in told if len(each.split()) <= LONGEST]
    words = rng.choice(fitting).split()
    return " ".join(
        rng.choice(LEXICON[word[1:-1]]) if word.startswith("[") else value if word.startswith("{") else word
        for word in words
    )


def moved(rest: Sequence[str], word: str, where: int, rng: random.Random) -> str:
    """The word in another slot among the others; plain words fill up what is too short."""
    slots = [slot for slot in range(LONGEST) if slot != where]
    slot = rng.choice(slots)
    words = list(rest[: LONGEST - 1])
    while len(words) < slot:
        words.insert(rng.randrange(len(words) + 1), rng.choice(PLAIN))
    return " ".join([*words[:slot], word, *words[slot:]])


def _shuffled(words: Sequence[str], rng: random.Random) -> list[str]:
    """Another order, if there is one."""
    other = list(words)
    rng.shuffle(other)
    return other if other != list(words) else other[1:] + other[:1]
