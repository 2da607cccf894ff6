"""Whose words stand on the card of a repository."""

from __future__ import annotations

import pytest

from consistency_lens.base.saving.published_card import merge_words

ONE, TWO = (f"<!-- generated: {name} -->\n{name}\n<!-- /generated -->" for name in ("one", "two"))


@pytest.mark.parametrize(
    ("ours", "theirs", "merged"),
    [
        (f"{ONE}\n\nhere\n\n{TWO}\n", None, f"{ONE}\n\nhere\n\n{TWO}\n"),
        (f"{ONE}\n\n{TWO}\n", f"{ONE}\n\nthere\n\n{TWO}\n", f"{ONE}\n\nthere\n\n{TWO}\n"),
        (f"{ONE}\n\nhere\n\n{TWO}\n", f"{ONE}\n\n{TWO}\n", f"{ONE}\n\nhere\n\n{TWO}\n"),
        (f"{ONE}\n\nhere\n\n{TWO}\n", f"{ONE}\n\nthere\n\n{TWO}\n", f"{ONE}\n\nthere\n\n{TWO}\n"),
        (f"---\na: 1\n---\nhere\n\n{ONE}\n", f"---\nb: 1\n---\n{ONE}\n", f"---\na: 1\nb: 1\n---\nhere\n\n{ONE}\n"),
        (f"{ONE}\n\n{TWO}\n\nhere", f"there\n\n{ONE}\n", f"there\n\n{ONE}\n\n{TWO}\n\nhere\n"),
    ],
)
def test_words_on_the_hub_stay_and_ours_go_where_there_are_none(ours: str, theirs: str | None, merged: str) -> None:
    assert merge_words(ours, theirs) == merged
    assert merge_words(ours, merged) == merged
