"""Words of any script with their place in the text, so that a text is cut where no tokenizer has to be asked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

# Scripts that are written without spaces count characters: Thai to Khmer, kana, Han.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_LONGEST = 64  # characters; what is longer is no word
_UNIT = re.compile(rf"\s*(?:[{_UNSPACED}]|[^\s{_UNSPACED}]{{1,{_LONGEST}}})")


def ends_of(text: str) -> list[int]:
    """Where each word ends; `ends[-1]` leaves out whitespace at the end of the text."""
    return [match.end() for match in _UNIT.finditer(text)]


def between(text: str, ends: Sequence[int], first: int, last: int) -> str:
    """The words `first` to `last - 1`, with the whitespace in front of each, exactly as they stand in the text."""
    start = ends[first - 1] if first else 0
    return text[start : ends[last - 1]] if last > first else ""


def words_of(text: str) -> list[str]:
    """The words without the whitespace in front of them."""
    return [text[start:end].lstrip() for start, end in pairwise([0, *ends_of(text)])]
