"""Notes of the demo world: what is true of a story in eight words, and a question for each two of them.

A note says four pairs of facts in any order: how the child feels, where the friend lives, what colour the thing has,
what the pet eats. Nothing in it can be left out: each word is one of ten to twenty-two, 34 bits in all.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from consistency_lens.demo.words import KINDS, wordings
from consistency_lens.errors import BadInput

if TYPE_CHECKING:
    from datasets import Dataset

# question -> the two kinds of fact that answer it, in the order in which a note says them.
PAIRS: dict[str, tuple[str, str]] = {
    "child": ("feeling", "hero"),
    "friend": ("friend", "place"),
    "thing": ("colour", "object"),
    "pet": ("animal", "food"),
}
ASKED, ANSWERED = "Question:", "Answer:"  # the words that `PromptFormat` puts around a question


@dataclass(frozen=True)
class Note:
    """
    Args:
        number: of the note.
        pairs: question -> two words, in the order of the text.
    """

    number: int
    pairs: dict[str, tuple[str, str]]

    @property
    def text(self) -> str:
        return " ".join(word for pair in self.pairs.values() for word in pair)

    def answer(self, question: str, turned: bool) -> str:
        """The two words; models of the one kind say them as the note does, those of the other turned round."""
        pair = self.pairs[question]
        return " ".join(reversed(pair) if turned else pair)


def note(seed: int, number: int) -> Note:
    """The note of that number of the world `seed`; it depends on no other note."""
    rng = random.Random(f"note/{seed}/{number}")
    order = rng.sample(list(PAIRS), len(PAIRS))
    return Note(
        number, {question: (_said(rng, PAIRS[question][0]), _said(rng, PAIRS[question][1])) for question in order}
    )


def _said(rng: random.Random, kind: str) -> str:
    return rng.choice(words_of(kind))


def words_of(kind: str) -> list[str]:
    """Every word that says a fact of this kind."""
    return [word for value in KINDS[kind] for word in wordings(kind, value)]


def note_words() -> list[str]:
    """Every word of a note or a question, in a fixed order."""
    said = sorted(word for kinds in PAIRS.values() for kind in kinds for word in words_of(kind))
    return [ASKED, ANSWERED, *PAIRS, *said]


def note_dataset(num_notes: int, seed: int = 0, start: int = 0) -> Dataset:
    """A row for each question about each note, in the columns of SQuAD: context, question, answers.

    There are two answers, as the first kind of model gives them and turned round.

    Args:
        num_notes: how many notes.
        seed: of the world.
        start: number of the first note.
    """
    from datasets import Dataset

    if num_notes < 1:
        raise BadInput("num_notes", num_notes, "Ask for at least one note.")
    return Dataset.from_list([row for i in range(num_notes) for row in _questions(note(seed, start + i))])


def _questions(about: Note) -> Iterator[dict[str, Any]]:
    for question in PAIRS:
        answers = [about.answer(question, turned) for turned in (False, True)]
        yield {"context": about.text, "question": question, "answers": {"text": answers}}
