"""What people can change on a page: values that come back are checked, and what a family has no view for is shown."""

from __future__ import annotations

from typing import Any

import pytest

from consistency_lens.base.viewing import Choice, Control, Field, Slider, Switches, settled
from consistency_lens.errors import BadInput

CONTROLS: list[Control] = [
    Slider("times", "Times", value=1.0, high=4.0),
    Choice("where", "Where", value="a", options=[("a", "here"), ("b", "there")]),
    Field("prompt", "Prompt", value="why", longest=8),
    Switches("off", "Sent", options=[("1", "one"), ("2", "two"), ("3", "three")]),
]


def test_what_is_not_given_is_as_it_was_at_first() -> None:
    start = {"times": 1.0, "where": "a", "prompt": "why", "off": []}
    assert settled(CONTROLS, {}) == start
    given = {"times": 4, "where": "b", "prompt": "", "off": ["3", "1"]}
    assert settled(CONTROLS, given) == {"times": 4.0, "where": "b", "prompt": "", "off": ["1", "3"]}
    assert settled([], {}) == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "Give an object"),
        (None, "Give an object"),
        ({"other": 1}, "Change some of times"),
        *(
            ({"times": value}, "from 0 to 4")
            for value in (-1, 4.5, float("nan"), float("inf"), 10**400, "1", True, None)
        ),
        *(({"where": value}, "Use one of a, b") for value in ("c", 0, None, ["a"])),
        *(({"prompt": value}, "at most 8 characters") for value in ("x" * 9, 1, None)),
        ({"prompt": "\ud800"}, "half of a character"),
        *(({"off": value}, "Name some of 1") for value in ("1", ["4"], [1], [["1"]], {"1": 1}, None)),
    ],
)
def test_what_cannot_be_is_refused(given: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        settled(CONTROLS, given)


def test_where_nothing_can_be_changed_that_is_said() -> None:
    with pytest.raises(BadInput, match="nothing to change"):
        settled([], {"times": 1})
