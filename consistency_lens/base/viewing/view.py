"""`LensView`: what the explorer asks of a family, and what it shows of one that says nothing of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ...errors import BadInput
from ...frozen import FrozenLM
from ..modeling import LensModel
from .controls import Control, settled
from .parts import Bars, Figures, Grid, Near, Part, nats

Row = dict[str, Any]


class LensView:
    """A family subclasses it where it has more to show than rows, and something to change. It is data alone: the page
    draws it.

    Args:
        lens: with its models.
    """

    unit: ClassVar[str] = "Token"  # what a row stands for
    whole: ClassVar[bool] = False  # whether all rows of a text are made in one step
    speaks: ClassVar[bool] = False  # whether codes are words, so that `lens.steer` takes other ones

    def __init__(self, lens: LensModel) -> None:
        self.lens = lens

    @property
    def frozen(self) -> FrozenLM:
        """The model that reads texts, the first of several."""
        if self.lens.subject is None:
            raise BadInput("subject", None, "Load the lens with its models: AutoLens.from_pretrained(lens).")
        return self.lens.subject

    def about(self) -> str:
        """One sentence of what is seen here."""
        where = ", ".join(self.lens.config.sites or [])
        return f"The code is {self.lens.config.code_in_words}, read at {where}."

    def positions(self, text: str) -> range:
        """The rows that a text has: its tokens but the first, which has nothing before it to be read from."""
        return range(1, len(self.frozen.tokenizer(text)["input_ids"]))

    def rows(self, text: str, positions: Sequence[int]) -> list[Row]:
        """Rows for people, as `LensModel.explain` gives them: `position`, `token`, `explanation`, `kl`, `before`,
        `after` and what else the family says."""
        return self.lens.explain(text, positions)

    def near(self, text: str, position: int) -> Near:
        """One row from near."""
        self.require(text, position)
        (row,) = self.rows(text, [position])
        facts = [("KL", nats(row["kl"]), "nats between what the model predicts next by itself and with the lens")]
        known = {*("position", "token", "explanation", "kl", "before", "after")}
        more = [[name, _shown(value)] for name, value in row.items() if name not in known and _is_plain(value)]
        parts: list[Part] = [
            Figures(items=facts),
            Bars("What the model says next", row["before"], row["after"], ("by itself", "with the lens")),
            Grid("What the lens says", ["", ""], [["code", str(row["explanation"])], *more], numeric=2),
        ]
        return Near(self.unit, position, str(row["token"]), parts, self.controls(text, position))

    def controls(self, text: str, position: int) -> list[Control]:
        """What can be changed about a row."""
        return []

    def changed(self, text: str, position: int, given: Any) -> list[Part]:
        """What comes of a change.

        Args:
            text: what was read.
            position: of the row that is open.
            given: values of controls by name, from outside; the others are as they were at first.
        """
        self.require(text, position)
        return self.change(text, position, settled(self.controls(text, position), given))

    def change(self, text: str, position: int, values: Mapping[str, Any]) -> list[Part]:
        """The same with a value for each control, as it may be: what a family with controls says."""
        raise BadInput("values", sorted(values), "Use a lens with something to change.")

    def require(self, text: str, position: int) -> None:
        """Raise where a text has no such row."""
        there = self.positions(text)
        if position not in there:
            fix = f"The text has the {self.unit.lower()}s {there.start} to {there.stop - 1}."
            raise BadInput("position", position, fix)


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float)


def _shown(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
