"""`TextReport`: the words of a lens beside other words, and whether they are language."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ...base.modeling import LensModel
from ...errors import BadInput
from ...evaluation import Control, Report, Seen, VectorReport
from ...evaluation.about import LENS, About
from ...evaluation.bootstrap import Records
from ...evaluation.quantities import Measured, Numbers
from .definitions import (
    AHEAD,
    LOOKS_AHEAD,
    REWORDED,
    SHUFFLED,
    TAIL,
    TAMPERED,
    TEXT,
    TRAITS,
    about_of,
    of_code,
)
from .distinct import add_distinct
from .gains import BEFORE, BEFORE_REWORDED, BEFORE_TRAITS, gains_of
from .judge import Judge, rows_for
from .limits import limits_of
from .verdict import best_text, remarks_of, verdict_of

JUDGED = (LENS, SHUFFLED, TAIL, AHEAD)  # whose explanations the judges read
Reword = Callable[[Sequence[str], int], Sequence[str]]


class TextReport(VectorReport):
    """The controls, numbers and sentences of a text lens.

    Args:
        rivals: name -> a lens that restores this lens's code `context_tail`; `context_tail_trained` is one trained on
            such tails with the same objective and budget, the honest text baseline.
        before: the same lens at an earlier moment, such as the end of its warm start: the report says what it has
            gained since, row by row.
        judges: worlds whose truth is known.
        reword: explanations and a seed -> the same in other words, where a world can do that.
    """

    traits = TRAITS

    def __init__(
        self,
        rivals: Mapping[str, LensModel] | None = None,
        before: LensModel | None = None,
        judges: Sequence[Judge] = (),
        reword: Reword | None = None,
    ) -> None:
        self.rivals, self.before, self.judges, self.reword = dict(rivals or {}), before, judges, reword
        self.texts: dict[str, list[str]] = {LENS: [], BEFORE: []}
        self.codes: dict[str, Any] = {}  # of the batch, by name

    @property
    def judged(self) -> Mapping[str, str]:
        return {name: text for judge in self.judges for name, text in judge.definitions.items()}

    @property
    def lenses(self) -> Sequence[LensModel]:
        return [*self.rivals.values(), *filter(None, [self.before])]

    def about(self, groups: Mapping[str, Sequence[str]]) -> About:
        return about_of(groups)

    def controls(self, seen: Seen) -> Iterator[Control]:
        lens, batch, prefix = seen.lens, seen.batch, seen.prefix
        rivals = lens.rivals(batch, prefix, seen.frozen, seen.seed)
        ahead = {name: code for name, code in rivals.items() if name == AHEAD}
        groups = {
            TEXT: {SHUFFLED: seen.code.take(batch["pair"])} | {n: c for n, c in rivals.items() if n != AHEAD},
            LOOKS_AHEAD: ahead,
            TAMPERED: lens.tampered(seen.code, prefix, seen.frozen, seen.seed)
            | ({REWORDED: self._reworded(seen, lens, seen.code)} if self.reword else {}),
        }
        self.codes = {LENS: seen.code}
        for group, codes in groups.items():
            self.codes |= codes
            for name, code in codes.items():
                yield Control(name, group, of_code(name), lens.restore(code, batch))
        if self.rivals and TAIL not in self.codes:
            fix = f"Leave them out: this family of lenses has no {TAIL} for them to read."
            raise BadInput("rivals", sorted(self.rivals), fix)
        for name, rival in self.rivals.items():
            yield Control(name, TEXT, of_code(name), rival.restore(self.codes[TAIL], batch))
        yield from self._earlier(seen)

    def _earlier(self, seen: Seen) -> Iterator[Control]:
        """The codes of the earlier lens, which stand in no table of controls."""
        if self.before is None:
            return
        code = self.before.compress(seen.batch)
        self.codes[BEFORE] = code
        yield Control(BEFORE, "", "", self.before.restore(code, seen.batch))
        if self.reword:
            reworded = self._reworded(seen, self.before, code)
            yield Control(BEFORE_REWORDED, "", "", self.before.restore(reworded, seen.batch))

    def _reworded(self, seen: Seen, lens: Any, code: Any) -> Any:
        """The code in a world's other words for it."""
        assert self.reword is not None
        return lens.reread(list(self.reword(said_by(lens, code), seen.seed)))

    def describe(self, seen: Seen, records: Records) -> None:
        self._describe(seen, records, seen.lens, LENS, "traits")
        if self.before is not None:
            self._describe(seen, records, self.before, BEFORE, BEFORE_TRAITS)
        said = {
            name: said_by(self._of(name, seen), self.codes[name]) for name in (*JUDGED, BEFORE) if name in self.codes
        }
        for name, texts in self.texts.items():
            texts += said.get(name, [])
        for judge in self.judges:
            rows = rows_for(judge, seen.batch)
            for name, texts in said.items():
                judged = judge.judge(texts, rows)
                numerators = {measure: above for measure, (above, _) in judged.items()}
                records.add(name, numerators, {measure: below for measure, (_, below) in judged.items()})

    def _of(self, name: str, seen: Seen) -> LensModel:
        return self.before if name == BEFORE and self.before is not None else seen.lens

    def _describe(self, seen: Seen, records: Records, lens: Any, name: str, traits: str) -> None:
        found = dict(lens.traits(self.codes[name], seen.batch, seen.prefix, seen.frozen, seen.seed))
        for kind in ("sample", "excerpt"):
            if {"text_nll", f"{kind}_nll"} <= found.keys():
                found[f"text_nll_above_{kind}s"] = found["text_nll"] - found[f"{kind}_nll"]
        records.add(traits, found)

    def subsets(self, seen: Seen) -> Mapping[str, Tensor]:
        return {
            name: mask for judge in self.judges for name, mask in judge.subsets(rows_for(judge, seen.batch)).items()
        }

    def finish(self, records: Records) -> None:
        super().finish(records)
        add_distinct(records, self.texts[LENS])
        if self.before is not None:
            add_distinct(records, self.texts[BEFORE], BEFORE_TRAITS)

    def gains(self, measured: Measured) -> dict[str, Numbers]:
        return gains_of(measured, self.judged) if self.before is not None else {}

    def verdict(self, report: Report) -> tuple[str, About]:
        found, best = verdict_of(report), best_text(report)
        lines = (LENS, "mean", SHUFFLED, *filter(None, [best]), AHEAD)
        limits = limits_of(report, found.content_blind)
        about = replace(report.about, good=found.good, alarm=found.content_blind, limits=tuple(limits), lines=lines)
        return found.sentence, about

    def remarks(self, report: Report) -> list[str]:
        return remarks_of(report)


def said_by(lens: LensModel, code: Any) -> list[str]:
    """The explanations."""
    return [str(row["explanation"]) for row in lens.describe(code)]
