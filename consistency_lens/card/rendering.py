"""Facts to Markdown: the frame of a card, and in it what a family says."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import jinja2
import yaml

from .columns import heading, shown
from .facts import CardFacts, Measured


def cell(value: Any) -> str:
    """Foreign words in a Markdown line or table cell: shown as they are, never as markup, links or our own markers."""
    text = re.sub(r"\s+", " ", str(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", text)


def _groups(rows: Sequence[Any], name: str) -> list[tuple[Any, list[Any]]]:
    """Neighbours that have an attribute in common; jinja's own `groupby` sorts."""
    return [(key, list(members)) for key, members in groupby(rows, key=attrgetter(name))]


def _strongest(controls: Sequence[Any]) -> list[Any]:
    """The first of each group that the lens was compared with, row by row: a report gives them by strength."""
    return [members[0] for _, members in _groups([c for c in controls if c.apart] or controls, "group")]


def _names(parts: Sequence[Any]) -> list[str]:
    """What any of these parts measured, in the order in which it comes."""
    return list(dict.fromkeys(number.name for part in parts for number in part.numbers))


def _called(numbers: Sequence[Measured], name: str) -> str:
    """The number of that name; nothing where there is none."""
    return next((_interval(number) for number in numbers if number.name == name), "")


def _tail(text: str, words: int = 24) -> str:
    """The end of a text, with a mark where something is left out."""
    kept = text.split()[-words:]
    return ("" if len(text.split()) <= words else "… ") + " ".join(kept)


def _yaml(value: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(value))  # tuples become lists, and anything that YAML would tag is refused
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=10**6).rstrip("\n")


def _interval(number: Measured) -> str:
    """The number and its interval to the same decimals, on one line."""
    if number.low is None or number.high is None:
        return _number(number.value)
    ends = (number.value, number.low, number.high)
    value, low, high = (_number(x, *ends) for x in ends)
    return f"{value} [{low}, {high}]".replace(" ", "\N{NO-BREAK SPACE}")


def _number(value: float, *beside: float) -> str:
    """Three decimals, which is what an interval over some hundred documents carries; where all are small, two digits.

    Args:
        value: to be shown.
        beside: what it is shown with.
    """
    largest = max(abs(x) for x in (value, *beside))
    if largest >= 100:
        return f"{value:.3g}"
    decimals = 3 if largest >= 0.01 or largest < 1e-6 else 1 - math.floor(math.log10(largest))
    return f"{value:.{decimals}f}"


def _fenced(text: str, language: str = "") -> str:
    """A code block that holds whatever is in the text: a longer fence than any inside, and none of our markers."""
    text = str(text)  # raises where the facts lack it
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    body = text.strip("\n").replace("<!-- ", "<!- ")
    return f"{fence}{language}\n{body}\n{fence}"


def literal(text: str) -> str:
    """A Python string that no Markdown, and none of the card's markers, can come out of."""
    quoted = json.dumps(text, ensure_ascii=False)
    return quoted.replace("`", "\\u0060").replace("<", "\\u003c").replace("\x7f", "\\u007f")


def render_card(template_text: str, facts: Mapping[str, Any], partial: str = "") -> str:
    """Fills a template; a name that the facts do not have raises `jinja2.UndefinedError`.

    Args:
        template_text: the frame.
        facts: name -> value.
        partial: a template that extends "frame" and puts its own blocks in the place of the frame's.
    """
    return _compiled(template_text, partial).render(facts)


@lru_cache(maxsize=8)
def _compiled(template_text: str, partial: str) -> jinja2.Template:
    """A run writes its card at every checkpoint, and compiling a template takes longer than filling it."""
    environment = jinja2.Environment(
        loader=jinja2.DictLoader({"frame": template_text, "card": partial or '{% extends "frame" %}'}),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(cell=cell, yaml=_yaml, interval=_interval, count="{:,}".format)
    environment.filters.update(number=_number, fenced=_fenced, tail=_tail, groupby_in_order=_groups, literal=literal)
    environment.filters.update(heading=heading, shown=shown, strongest=_strongest, names=_names, called=_called)
    return environment.get_template("card")


def model_card(facts: CardFacts) -> str:
    """The card of a lens of whatever family."""
    return render_card(model_card_template(), facts.mapping(), facts.partial)


def model_card_template() -> str:
    """The frame of every family's card: at top level in the sources, inside the package once installed."""
    return (Path(__file__).parents[1] / "model_card_template.md").read_text("utf-8")
