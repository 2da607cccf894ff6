"""`FamilyReport`: what a family of lenses adds to the report that every lens gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from ..base.comparing import Applied, TokenSwap
from ..base.modeling import LensModel
from ..frozen import Edit, FrozenLM, FrozenModels, Prefix
from .about import LENS, About, Group
from .bootstrap import Records
from .held_out import HeldOut
from .quantities import WHOLE_PASS, Measured, Numbers, Quantity
from .report import Report

EDIT = "edit"
EXAMPLES = 256  # rows among which those on a card are picked


@dataclass(frozen=True)
class Control:
    """Edits that are compared as those of the lens are.

    Args:
        name: of the code.
        group: heading under which it stands; '' for one that is measured and not shown.
        definition: what it is, in a sentence.
        edits: what it writes.
    """

    name: str
    group: str
    definition: str
    edits: Sequence[Edit]


@dataclass(frozen=True)
class Seen(Applied):
    """One batch of an evaluation, to which the lens has been applied. The seed is the batch's own."""

    lens: Any
    models: FrozenModels
    batch: Mapping[str, Any]
    seed: int

    @property
    def frozen(self) -> FrozenLM:
        """The only model, or the first of several."""
        return self.models.first

    @property
    def prefix(self) -> Prefix:
        """The contexts of a batch whose rows are compared at one token."""
        assert isinstance(self.comparison, TokenSwap)
        return self.comparison.prefix


class FamilyReport:
    """Hooks of an evaluation. One instance serves one evaluation, and may keep what it needs from batch to batch.

    A batch has `doc_id` `[B]`, and `position` `[B]` where a row belongs to one token.
    """

    quantities: Mapping[str, Quantity] = WHOLE_PASS
    # Numbers by which a code is compared with the lens, and of which a changed code keeps a share.
    compared: Sequence[str] = ("kl_recovered", "top1", "loss_recovered")
    kept: ClassVar[Sequence[str]] = ("kl_recovered",)
    traits: ClassVar[Mapping[str, str]] = {}
    # Code -> one of the subsets: its numbers are over these rows alone, and such a subset is no part of the report.
    over: ClassVar[Mapping[str, str]] = {}

    @property
    def judged(self) -> Mapping[str, str]:
        """Definitions of what `describe` records under the name of a code, and of the subsets."""
        return {}

    @property
    def lenses(self) -> Sequence[LensModel]:
        """Lenses that take part besides the one that is evaluated."""
        return ()

    def about(self, groups: Mapping[str, Sequence[str]]) -> About:
        """How the report wants to be shown."""
        others = (Group(name, name, compared=True) for name in groups if name not in (LENS, EDIT))
        shown = (Group(LENS, "the lens", brief=True), *others, Group(EDIT, "edits, no code"))
        return About(
            shown, questions={"kl_recovered": "recovered", "top1": ""}, details=("kl", "loss_recovered", "ce")
        )

    def begin(self, lens: LensModel, models: FrozenModels, data: Any, held_out: HeldOut) -> None:
        """Raise unless these belong together; called first."""
        held_out.require(data, models.first)

    def batches(self, lens: LensModel, models: FrozenModels, data: Any, held_out: HeldOut) -> Any:
        """The held-out batches, with a length."""
        return held_out.batches(data, models.first, lens.config.sites or [])

    def shown(self, lens: LensModel, models: FrozenModels, data: Any, split: str) -> Iterable[Mapping[str, Any]]:
        """Batches of the rows among which the examples on a card are picked."""
        return self.batches(lens, models, data, HeldOut(split, EXAMPLES, horizon=0))

    def described(self, data: Any, held_out: HeldOut) -> dict[str, Any]:
        """What the report says of the data, and of how it was read: `corpus` and `split` at least."""
        return held_out.described(data)

    def baseline(self, seen: Seen) -> list[Edit]:
        """The edits that score 0; none where the family has no such edits."""
        return []

    def edits(self, seen: Seen) -> Iterable[Control]:
        """Edits that no code stands behind. One named `self` writes what is there, and has to change nothing."""
        return ()

    def controls(self, seen: Seen) -> Iterable[Control]:
        """Codes that the lens did not make of the row, or that were changed."""
        return ()

    def of_rows(self, seen: Seen) -> dict[str, Tensor]:
        """Measures `[B]` of the rows themselves."""
        return {}

    def measure(self, seen: Seen, edits: Sequence[Edit]) -> dict[str, Tensor]:
        """Measures `[B]` of edits, beyond what the model then predicts."""
        return {}

    def describe(self, seen: Seen, records: Records) -> None:
        """Record what can be measured of codes themselves: under `traits` of the lens's own, under its name of any."""

    def subsets(self, seen: Seen) -> Mapping[str, Tensor]:
        """Name -> which rows of the batch belong to it, bool `[B]`."""
        return {}

    def finish(self, records: Records) -> None:
        """Record what shows over all rows only."""

    def gains(self, measured: Measured) -> dict[str, Numbers]:
        """Number -> `before`, `after` and `gain`, where an earlier moment of the lens was measured beside it."""
        return {}

    def verdict(self, report: Report) -> tuple[str, About]:
        """What the report comes to: a sentence that is true for a reader who stops there, and what it means for how
        the report is shown."""
        name, whole = report.about.primary, report.parts["all"]
        score = whole.numbers[LENS].get(name)
        if score is None:
            return f"{name} could not be measured.", report.about
        best = report.best([group.name for group in report.about.groups if group.compared])
        if best is None:
            return f"{name} is {score}.", replace(report.about, good=score.low > 0)
        apart = whole.differences[best][name]
        sentence = f"{name} is {score}; the lens minus its best control, {best}, is {apart}."
        return sentence, replace(report.about, good=score.low > 0 and apart.low > 0)

    def remarks(self, report: Report) -> list[str]:
        """Sentences of the family, between those that every report has."""
        return []
