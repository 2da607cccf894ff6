"""Questions about the stories of the demo world: an unfinished sentence that needs a fact of the story."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from consistency_lens.demo.grammar import GROUPS, NEEDED
from consistency_lens.demo.stories import Story, stories
from consistency_lens.demo.words import LEXICON, wordings

if TYPE_CHECKING:
    from datasets import Dataset


def question_dataset(num_stories: int, seed: int = 0, start: int = 0) -> Dataset:
    """A row for each fact of each story, for `Passages.from_dataset`: passage, prompt, answers, task, ends, kind.

    The prompt is a sentence of the world up to the word that says the fact, the first answer the word that models of
    this world say, and its other words are accepted, too.

    Args:
        num_stories: how many stories.
        seed: of the world.
        start: number of the first story.
    """
    from datasets import Dataset

    rows = [row for story in stories(num_stories, seed, start) for row in questions_about(story, seed)]
    return Dataset.from_list(rows)


def questions_about(story: Story, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The rows of one story; they depend on the seed and on the number of the story alone."""
    rng = random.Random(f"questions/{seed}/{story.doc_id}")
    for fact in story.facts:
        group = next(group for group, kinds in GROUPS.items() if fact.kind in kinds)
        before = rng.choice(NEEDED[group]).partition(f"{{{fact.kind}}}")[0]
        words = [rng.choice(LEXICON[word[1:-1]]) if word.startswith("[") else word for word in before.split()]
        yield {
            "passage": story.text,
            "prompt": " ".join(words),
            "answers": list(wordings(fact.kind, fact.value)),
            "task": "cloze",
            "ends": True,
            "kind": fact.kind,
        }
