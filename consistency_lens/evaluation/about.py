"""`About`: how a report wants to be shown. It lies in the report itself, so that whoever shows one knows no family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from ..errors import BadInput

LENS = "lens"  # the code of the lens itself, and its group


@dataclass(frozen=True)
class Group:
    """A heading under which codes stand.

    Args:
        name: as in `Report.groups`.
        heading: for a narrow column: no longer than the longest code.
        on_card: for a card; default the heading.
        compared: the distance of the lens from each of its codes is given.
        changed: its codes are the lens's own, changed: the share of the lens's numbers that each keeps is given.
        brief: it is shown again for each part of the rows, also where there is little room.
    """

    name: str
    heading: str
    on_card: str = ""
    compared: bool = False
    changed: bool = False
    brief: bool = False


@dataclass(frozen=True)
class Listing:
    """Rows for people, as they are: `rows` have a text for each of the `columns`."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        return cls(stored["title"], tuple(stored["columns"]), tuple(tuple(row) for row in stored["rows"]))


@dataclass(frozen=True)
class Sweep:
    """A picture of codes of growing size, up to the lens's own; `codes` maps the label of a size to its code."""

    name: str
    caption: str
    title: str
    axis: str
    codes: dict[str, str]

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise BadInput("sweep", self.name, "Use letters, digits and underscores: it is the name of a file.")


@dataclass(frozen=True)
class Course:
    """A picture of where training went: two numbers that it watched, `x` better the smaller it is."""

    caption: str
    title: str
    x: str
    axis: str


@dataclass(frozen=True)
class Chart:
    """A picture of plain numbers that a family has made.

    Args:
        name: of the file.
        caption, title: below and above it.
        axis, height: what its two axes are.
        places: labels along the axis.
        lines: name -> values from the first place on; a line may end early.
        bars: they are drawn as bars beside each other.
    """

    name: str
    caption: str
    title: str
    axis: str
    height: str
    places: tuple[str, ...]
    lines: Mapping[str, tuple[float, ...]]
    bars: bool = False

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise BadInput("chart", self.name, "Use letters, digits and underscores: it is the name of a file.")
        longest = max((len(values) for values in self.lines.values()), default=0)
        if longest > len(self.places):
            raise BadInput("places", len(self.places), f"Give a label for each of {longest} values.")

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        lines = {name: tuple(values) for name, values in stored["lines"].items()}
        return cls(**{**stored, "places": tuple(stored["places"]), "lines": lines})


@dataclass(frozen=True)
class Curve:
    """A picture of two numbers of the same codes, one over the other: what a code achieves over what it costs.

    Args:
        name: of the file.
        caption, title: of the picture.
        x: number of `judged` that is the cost; drawn on a logarithmic axis.
        axis: what it says there.
        y: label -> number of a code; a colour each.
        series: label -> codes that are joined by a line; a marker each.
        priced: label -> a code, and the trait that is its cost in the place of `x`: the same in another form.
    """

    name: str
    caption: str
    title: str
    x: str
    axis: str
    y: Mapping[str, str]
    series: Mapping[str, Sequence[str]]
    priced: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise BadInput("curve", self.name, "Use letters, digits and underscores: it is the name of a file.")


@dataclass(frozen=True)
class About:
    """What a report says of itself.

    Args:
        groups: in the order in which they are shown, the lens first.
        primary: the number by which codes are compared; `fallback` where it could not be measured, better the smaller.
        zero: what scores 0 by the primary number.
        questions: columns of the first table: number -> its name on a picture, '' for a number that is on none.
        details: columns of the second table.
        narrow: columns that a narrow screen leaves out.
        titles: headings of the tables of `differences`, `judged`, `kinds`, `traits`, `retention` and `gains`, and on
            the card of `truth` and `code`.
        lines: codes whose KL is drawn over the position.
        sweep, course, charts, curve: further pictures.
        listings: rows for people, in the report and on the card.
        good, alarm: the verdict is good news; it is a warning that has to come first.
        limits: what the lens gets wrong, in sentences, the gravest first.
    """

    groups: tuple[Group, ...] = ()
    primary: str = "kl_recovered"
    fallback: str = "kl"
    zero: str = "the baseline"
    questions: Mapping[str, str] = field(default_factory=dict)
    details: tuple[str, ...] = ()
    narrow: tuple[str, ...] = ()
    titles: Mapping[str, str] = field(default_factory=dict)
    lines: tuple[str, ...] = (LENS, "mean")
    sweep: Sweep | None = None
    course: Course | None = None
    charts: tuple[Chart, ...] = ()
    curve: Curve | None = None
    listings: tuple[Listing, ...] = ()
    good: bool = False
    alarm: bool = False
    limits: tuple[str, ...] = ()

    @property
    def order(self) -> list[str]:
        """Every number of the first two tables."""
        return [*self.questions, *self.details]

    @property
    def pictures(self) -> dict[str, str]:
        """Name of a file -> caption, of every picture that there may be."""
        return {
            "controls": f"{self.primary} of the lens beside all controls",
            **({self.sweep.name: self.sweep.caption} if self.sweep else {}),
            **({self.curve.name: self.curve.caption} if self.curve else {}),
            "position": "KL by position",
            **({"training": self.course.caption} if self.course else {}),
            **{chart.name: chart.caption for chart in self.charts},
        }

    def title(self, of: str) -> str:
        return self.titles.get(of) or TITLES[of]

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        plain = stored.items()
        read: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in plain}
        read["groups"] = tuple(Group(**group) for group in stored["groups"])
        for name, several in (("charts", Chart), ("listings", Listing)):
            read[name] = tuple(several.from_dict(each) for each in stored.get(name, ()))
        for name, kind in (("sweep", Sweep), ("course", Course), ("curve", Curve)):
            read[name] = kind(**stored[name]) if stored.get(name) else None
        return cls(**read)

    @classmethod
    def of_groups(cls, names: Sequence[str]) -> Self:
        """For a report that does not say: groups under their own names, and the numbers of edits at one token."""
        ordered = sorted(names, key=lambda name: name != LENS)
        groups = tuple(Group(name, name, brief=True) for name in ordered)
        return cls(groups, zero=MEAN, questions=QUESTIONS, details=DETAILS)


TITLES = {
    "differences": "How far the lens is above its controls",
    "judged": "Where the truth is known",
    "kinds": "By kind",
    "traits": "The code itself",
    "retention": "Share that a changed code keeps",
    "gains": "Since an earlier moment",
    "truth": "Is it true?",
    "code": "The code itself",
}
QUESTIONS = {
    "kl_recovered": "next token",
    "kl_horizon_recovered": "next token and horizon",
    "kl_after_recovered": "horizon without the next token",
    "top1": "",
    "fve": "vector (FVE)",
}
MEAN = "the mean activation"
DETAILS = ("kl", "kl_horizon", "kl_after", "loss_recovered", "fve_nrm", "cosine", "norm_ratio")
