"""Scores of answers against their published definitions, and at the points where they are easily wrong."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consistency_lens.answers import DEFINITIONS, contains, exact_match, f1, first_line, normalised

WORDS = st.lists(st.sampled_from(["one", "two", "three", "the", "two."]), max_size=6).map(" ".join)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Quick, brown fox!", "quick brown fox"),
        ("a an the", ""),
        ("theatre another", "theatre another"),
        ("U.S.A.", "usa"),
        ("the-end", "theend"),  # punctuation goes before articles, as in SQuAD's own order
        (" \n", ""),
        ("¿Qué?", "¿qué"),  # ASCII punctuation alone
    ],
)
def test_normalisation_is_that_of_squad(text: str, expected: str) -> None:
    assert normalised(text) == expected


@pytest.mark.parametrize(
    ("answer", "accepted", "em", "word_f1", "held"),
    [
        ("the Eiffel Tower.", ["Eiffel tower"], 1, 1, 1),
        ("It is the Eiffel Tower", ["Eiffel Tower"], 0, 2 * 2 / (4 + 2), 1),
        ("Eiffel", ["Eiffel Tower", "eiffel"], 1, 1, 1),
        ("Tower", ["Eiffel Tower"], 0, 2 * 1 / (1 + 2), 0),
        ("towers", ["tower"], 0, 0, 0),
        ("two two", ["two"], 0, 2 * 1 / (2 + 1), 1),
        ("", ["x"], 0, 0, 0),
        ("the", ["a"], 1, 1, 1),  # both are nothing
        ("x", ["the"], 0, 0, 0),
        ("x", [], 0, 0, 0),
    ],
)
def test_scores_of_known_answers(answer: str, accepted: list[str], em: float, word_f1: float, held: float) -> None:
    assert exact_match(answer, accepted) == em
    assert f1(answer, accepted) == pytest.approx(word_f1)
    assert contains(answer, accepted) == held


@settings(max_examples=80, deadline=None)
@given(WORDS, st.lists(WORDS, min_size=1, max_size=3))
def test_f1_is_the_harmonic_mean_of_precision_and_recall(answer: str, accepted: list[str]) -> None:
    best = 0.0
    for other in accepted:
        ours, theirs = normalised(answer).split(), normalised(other).split()
        left, shared = list(theirs), 0
        for word in ours:
            if word in left:
                left.remove(word)
                shared += 1
        if shared:
            precision, recall = shared / len(ours), shared / len(theirs)
            best = max(best, 2 * precision * recall / (precision + recall))
        elif not ours and not theirs:
            best = 1.0
    assert f1(answer, accepted) == pytest.approx(best)
    assert exact_match(answer, accepted) <= f1(answer, accepted) + 1e-9
    assert exact_match(answer, accepted) <= contains(answer, accepted)


def test_each_score_has_a_definition() -> None:
    assert set(DEFINITIONS) == {each.__name__ for each in (exact_match, f1, contains)}


@pytest.mark.parametrize(("text", "line"), [("\n  a b \nc", "a b"), ("", ""), (" \n", ""), ("x", "x")])
def test_the_first_line_is_scored(text: str, line: str) -> None:
    assert first_line(text) == line
