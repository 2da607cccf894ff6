"""`FactWorld`: what the offline world adds to the report of a lens that writes words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from consistency_lens.activations import Activations
from consistency_lens.base.modeling import LensModel
from consistency_lens.demo.judging.beyond import BeyondJudge
from consistency_lens.demo.judging.fresh import ANYWHERE, FRESH, STORIES, Drawn, fresh_rows
from consistency_lens.demo.judging.judge import FACT_COLUMNS, FactJudge, reword_all
from consistency_lens.demo.judging.probes import FactProbes
from consistency_lens.demo.judging.questions import FactQuestions
from consistency_lens.demo.judging.sentences import FactSentences
from consistency_lens.demo.pages.judging import HeldJudge, PageQuestions
from consistency_lens.demo.pages.writing import PAGES
from consistency_lens.evaluation import HeldOut, Report, evaluate
from consistency_lens.evaluation.report import with_parts
from consistency_lens.evaluation.world import World
from consistency_lens.text.report import TextReport

OF_FACTS = ("fact_recall", "fact_precision_at_facts", "needed_precision", "follows_", "steered_")


def on_pages(lens: LensModel) -> bool:
    """Whether the model of a lens reads its stories on pages."""
    return lens.config.origin.model_id.startswith(PAGES)


class FactWorld(World):
    """Rows that say which facts their story states are compared with the words of their explanations."""

    def options(self, lens: LensModel, data: Activations, split: str) -> dict[str, Any]:
        if not set(FACT_COLUMNS) <= set(data.splits[split].column_names):
            return {"reword": reword_all}
        site, *others = lens.config.sites or [""]
        # Of a lens of several sites a batch holds one alone: words are judged, and no probe stands beside them.
        held = None if others else FactProbes.learned(data.splits["train"], site)
        paged = on_pages(lens)
        return {
            "judges": [FactJudge(held, site), BeyondJudge(), *([HeldJudge(held, site)] if paged and held else [])],
            "sayings": [FactSentences()],
            "reword": reword_all,
            "questions": PageQuestions(held, site) if paged else FactQuestions(held, site),
            "learned": {},
        }

    def completed(
        self, report: Report, lens: LensModel, data: Activations, of_family: Mapping[str, Any], progress: bool
    ) -> Report:
        """With what the lens does on stories that no tuning saw, at thousands of fact positions."""
        if not of_family.get("judges") or on_pages(lens):
            return report
        assert lens.models is not None
        stories = min(STORIES, max(2, report.data["rows"] // 2))  # a short report has a short look at them, too
        rows = fresh_rows(data, lens.models.first, lens.config.sites or [], stories)
        given = {**of_family, "judges": [*of_family["judges"], Drawn()], "brief": True, "before": None}
        held_out = HeldOut(FRESH, horizon=0)
        found = evaluate(lens, lens.models, rows, TextReport(**given), held_out, progress=progress)
        known = {"fresh_facts": "fact_positions", "fresh": ANYWHERE}
        parts = {name: part for name, part in known.items() if part in found.parts}
        where = {
            "fresh_facts": f"{found.definitions['fact_positions']}, in stories that no tuning saw",
            "fresh": found.definitions[ANYWHERE],
        }
        numbers = found.judged.get("lens", {}).items()
        own = {name: number for name, number in numbers if name.startswith(OF_FACTS) and "/" not in name}
        return with_parts(
            report, {name: found.parts[part] for name, part in parts.items()}, where, {"lens, fresh": own}
        )
