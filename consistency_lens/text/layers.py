"""A text at several of a lens's sites: the same tokens, a row for each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..base.explanations import Explanations
from ..base.lens import Code
from ..errors import BadInput
from .parts.two_parts import TwoParts

SITE = "site"  # the column that tells the rows of a token apart


def explain_layers(
    lens: TwoParts, what: Any, positions: Any, numbers: Sequence[int], options: Mapping[str, Any]
) -> Any:
    """What `explain` gives, with a row for each site of each token.

    Args:
        lens: with its frozen model.
        what, positions, options: of `explain`.
        numbers: of the sites.
    """
    if isinstance(what, Code):
        fix = "Give the text, or leave layers out."
        raise BadInput("layers", list(numbers), fix, why="a code is of no text that could be read at a site")
    sites = lens.config.sites or []
    every = [lens.looking_at(number).explain(what, positions, **options) for number in numbers]
    if isinstance(every[0], Explanations):
        return _together([sites[number] for number in numbers], every)
    return [_together([sites[n] for n in numbers], texts) for texts in zip(*every, strict=True)]


def _together(sites: Sequence[str], every: Sequence[Explanations]) -> Explanations:
    """Token by token, the sites of each in their order."""
    rows = [
        {**{name: row[name] for name in ("position", "token")}, SITE: site, **row}
        for of_token in zip(*every, strict=True)
        for site, row in zip(sites, of_token, strict=True)
    ]
    return Explanations(rows, every[0].tokens)
