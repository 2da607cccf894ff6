"""Questions about stories: each needs a fact of its story, in words of the world, and passages take them so."""

from consistency_lens.activations.passages import Passages
from consistency_lens.demo.questions import question_dataset, questions_about
from consistency_lens.demo.stories import stories
from consistency_lens.demo.tokenizer import vocabulary
from consistency_lens.demo.words import FACT_WORDS

STORIES = stories(40, seed=3)


def test_each_fact_is_asked_once_with_all_its_words() -> None:
    for story in STORIES:
        rows = list(questions_about(story))
        assert [(row["kind"], row["answers"][0]) for row in rows] == [(fact.kind, fact.value) for fact in story.facts]
        for row in rows:
            assert row["passage"] == story.text
            assert set(row["answers"]) & set(story.words), "the story says it"
            assert {FACT_WORDS[answer] for answer in row["answers"]} == {(row["kind"], row["answers"][0])}


def test_a_prompt_is_made_of_words_of_the_world_and_gives_no_fact_away() -> None:
    known = vocabulary()
    for story in STORIES:
        for row in questions_about(story):
            words = row["prompt"].split()
            assert words and set(words) <= set(known)
            assert not set(words) & set(FACT_WORDS)


def test_questions_depend_on_seed_and_story_alone() -> None:
    some, later = question_dataset(6, seed=3).to_list(), question_dataset(2, seed=3, start=4).to_list()
    assert some[-len(later) :] == later
    assert some[0]["passage"] != question_dataset(1, seed=4)[0]["passage"]


def test_passages_take_them() -> None:
    passages = Passages.from_dataset(question_dataset(60), validation_fraction=0.2, test_fraction=0.2)
    assert set(passages.splits) == {"train", "validation", "test"}
    assert {row["task"] for row in passages.splits["train"]} == {"cloze"}
    assert passages.metadata["splits"]["train"]["documents"] < passages.metadata["splits"]["train"]["rows"]
