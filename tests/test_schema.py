"""The language of records: what fits is let through as it is, all else is named in one line."""

from __future__ import annotations

import math
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consistency_lens import schema
from consistency_lens.errors import BadInput
from consistency_lens.schema import Kind, Unfit, many, maybe, named, no_other, number, one_of, record, text, whole

DEEP: Any = []
for _ in range(3000):
    DEEP = [DEEP]
NESTED = record({"b": many(record({"c": whole(0, 3)}))})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def kind_of(value: Any) -> str:
    """What a test is called: the values themselves are endless."""
    return type(value).__name__


def fits(kind: Kind, value: Any) -> bool:
    try:
        schema.require(value, kind, "lens", "place", "Mend it.")
    except BadInput as error:
        assert "\n" not in str(error) and len(str(error)) < 600
        return False
    return True


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (whole(1, 4), [1, 4], [0, 5, 1.0, True, "1", None, 10**30]),
        (number(above=0), [1, 0.5], [0, -1, math.nan, math.inf, True, "1", 10**400]),
        (number(0, 1), [0, 1, 0.5], [-0.1, 1.1]),
        (text(r"\w+"), ["a1"], ["", "a b", "a\n", 1, None, ["a"]]),
        (text(longest=3), ["abc", ""], ["abcd"]),
        (schema.flag, [True, False], [0, 1, "true", None]),
        (one_of("a", "b"), ["a"], ["c", 1, None, ["a"]]),
        (maybe(whole()), [None, 2], [-1, "2"]),
        (many(whole(), most=2, least=1), [[1], (1, 2)], [[], [1, 2, 3], ["1"], "12", {0: 1}, 3]),
        (named(whole(), most=1), [{}, {"a": 1}], [{"a": "1"}, {1: 1}, {"a": 1, "b": 2}, [], None]),
        (
            record({"a": whole()}, {"b": text()}),
            [{"a": 1}, {"a": 1, "b": "", "c": [1]}],
            [{}, {"a": 1, "b": 2}, {"a": "1"}],
        ),
        (record({}, rest=no_other), [{}], [{"a": None}]),
        (schema.finite, [{"a": [1, -2.5, "nan", {"b": None}]}], [math.nan, [math.inf], {"a": {"b": -math.inf}}, DEEP]),
        (schema.plain, [{"a": [1, None, "x", {"b": math.nan}]}], [DEEP, {1: 2}, 1 << 2000]),
    ],
    ids=kind_of,
)
def test_a_kind_takes_what_fits_and_nothing_else(kind: Kind, good: list[Any], bad: list[Any]) -> None:
    assert [value for value in good if not fits(kind, value)] == []
    assert [value for value in bad if fits(kind, value)] == []


def test_the_place_of_a_value_in_its_record_is_named() -> None:
    with pytest.raises(Unfit, match=r"^a\.b\[1\]\.c=7, expected a whole number from 0 to 3$"):
        record({"a": NESTED})({"a": {"b": [{"c": 0}, {"c": 7}]}}, "")


@pytest.mark.parametrize(
    "value", [DEEP, "x" * 10**6, [0] * 10**5, 10**5000, {"k" * 10**5: 1}, b"x", 1.5, None], ids=kind_of
)
def test_a_glimpse_is_short_and_made_at_once(value: Any) -> None:
    assert len(schema.glimpse(value)) < 140


def test_what_says_more_than_it_holds_is_refused_before_it_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each level names the one below it ten times, as aliases of YAML do: ten to the twentieth values."""
    monkeypatch.setattr(schema, "MOST", 5000)
    bomb: Any = "x"
    for _ in range(20):
        bomb = [bomb] * 10
    loop: list[Any] = []
    loop.append(loop)
    assert not any(fits(schema.plain, value) for value in (bomb, {"a": bomb}, loop))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 10**6,
        b'{"a": 1' + b"0" * 5000 + b"}",
        b'{"a": "\\ud800',
        b"nul",
        b'{"a": -1}',
        b"[]",
    ],
    ids=lambda content: repr(content[:8]),
)
def test_a_file_that_is_damaged_is_named_with_its_field_and_what_to_do(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(BadInput, match=r"^output_dir='here': run\.json.*Mend it\.$") as caught:
        schema.read_json(tmp_path / "run.json", record({"a": whole(0, 5)}), "output_dir", "here", "Mend it.")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_too_large_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="No such file"):
        schema.read_json(tmp_path / "none.json", schema.plain, "lens", "here", "Mend it.")
    (tmp_path / "large.json").write_text("[" + " " * 100 + "]")
    monkeypatch.setattr(schema, "LARGEST", 99)
    with pytest.raises(BadInput, match="a file of at most 99 bytes"):
        schema.read_json(tmp_path / "large.json", schema.plain, "lens", "here", "Mend it.")


KINDS = st.deferred(
    lambda: (
        st.sampled_from([whole(), number(), text(), schema.flag, maybe(whole()), schema.plain])
        | KINDS.map(many)
        | KINDS.map(named)
        | st.dictionaries(st.text(string.ascii_letters, max_size=3), KINDS, max_size=3).map(record)
    )
)


@settings(max_examples=100, deadline=None)
@given(kind=KINDS, value=VALUES)
def test_whatever_stands_in_a_record_it_fits_or_is_a_line(kind: Callable[[Any, str], None], value: Any) -> None:
    before = repr(value)
    fits(kind, value)
    assert repr(value) == before
