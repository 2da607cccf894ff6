"""What the world says about explanations: naming, truth, and where both are asked for."""

from dataclasses import asdict

import torch
from torch import Tensor

from consistency_lens.demo.judging.judge import FactJudge, reword_all
from consistency_lens.demo.reword import is_true, mentions
from consistency_lens.demo.stories import Fact, FactPosition, Story, stories
from consistency_lens.text.report import Judge

STORY = Story(
    0,
    "",
    (Fact("place", "forest", 3), Fact("animal", "dog", 7), Fact("feeling", "happy", 9)),
    (FactPosition(20, 0), FactPosition(30, 1)),
)


def rows_at(*positions: int, story: Story = STORY) -> dict[str, list[object]]:
    """The same story, cut at each position, as the columns of an extraction hold it."""
    return {
        "position": list(positions),
        "doc_id": [0] * len(positions),
        "facts": [[asdict(fact) for fact in story.facts]] * len(positions),
        "fact_positions": [[asdict(spot) for spot in story.fact_positions]] * len(positions),
    }


def value(found: dict[str, tuple[Tensor, Tensor]], name: str) -> float:
    above, below = found[name]
    return float(above.sum() / below.sum())


def test_recall_counts_any_word_for_the_needed_fact() -> None:
    texts = ["to the forest", "in the woods", "to the beach", "a dog in it", "forest"]
    found = FactJudge().judge(texts, rows_at(20, 20, 20, 20, 25))
    above, below = found["fact_recall"]
    assert above.tolist() == [1, 1, 0, 0, 0]
    assert below.tolist() == [1, 1, 1, 1, 0]  # at 25 no fact comes next, whatever the text says
    assert value(found, "fact_recall") == 0.5


def test_precision_is_over_fact_words_wherever_they_stand() -> None:
    texts = ["the happy hound and the cat", "no fact at all", "forest beach"]
    found = FactJudge().judge(texts, rows_at(25, 20, 30))
    assert found["fact_precision"][0].tolist() == [2, 0, 1]
    assert found["fact_precision"][1].tolist() == [3, 0, 2]
    assert value(found, "fact_precision") == 3 / 5
    assert value(found, "fact_precision_at_facts") == 1 / 2
    assert value(found, "fact_words") == 5 / 3


def test_precision_of_the_needed_kind() -> None:
    texts = ["forest and beach and happy", "dog", "cat", "happy"]
    found = FactJudge().judge(texts, rows_at(20, 30, 30, 20))
    assert found["needed_precision"][0].tolist() == [1, 1, 0, 0]
    assert found["needed_precision"][1].tolist() == [2, 1, 1, 0]


def test_fact_positions_are_named() -> None:
    mask = FactJudge().subsets(rows_at(19, 20, 21, 30))["fact_positions"]
    assert mask.dtype == torch.bool and mask.tolist() == [False, True, False, True]


def test_a_story_that_speaks_for_itself_is_right_everywhere() -> None:
    judge: Judge = FactJudge()
    for story in stories(20, seed=5):
        for spot in story.fact_positions:
            found = judge.judge([story.text, story.words[spot.position]], rows_at(*[spot.position] * 2, story=story))
            assert value(dict(found), "fact_precision") == 1
            assert found["fact_recall"][0].tolist() == [1, 1]
    assert set(judge.definitions) == {*found, *judge.subsets(rows_at(1))}


def test_rewording_keeps_what_is_said() -> None:
    texts = [story.text for story in stories(5, seed=6)]
    other = reword_all(texts, seed=1)
    assert all(a != b for a, b in zip(texts, other, strict=True)) and other == reword_all(texts, seed=1)
    for story, text in zip(stories(5, seed=6), other, strict=True):
        assert all(is_true(story, mention) for mention in mentions(text))


def test_each_kind_has_numbers_of_its_own() -> None:
    texts = ["the forest and a cat", "a dog in the cave", "a dog"]
    found = FactJudge().judge(texts, rows_at(20, 30, 25))
    assert value(found, "fact_recall/place") == 1 and value(found, "fact_recall/animal") == 1
    assert value(found, "fact_precision/place") == 1 / 2 and value(found, "fact_precision/animal") == 2 / 3
    assert float(found["fact_precision/colour"][1].sum()) == 0
    assert set(found) <= set(FactJudge().definitions)
