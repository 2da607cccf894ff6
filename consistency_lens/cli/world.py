"""What a world whose truth is known adds to the report of a lens of the offline model, family by family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..activations import Activations
from ..auto import evaluate_lens
from ..base.modeling import LensModel
from ..evaluation import Report
from ..evaluation.report import with_parts
from ..finding import is_demo
from .parsing.request import Request


def of_world(lens: LensModel, activations: Activations, request: Request) -> dict[str, Any]:
    """What a world whose truth is known adds to the report of a text lens."""
    if lens.config.medium != "text" or not is_demo(lens.config.origin.model_id):
        return {}
    from ..demo.judging.asking import FactQuestions
    from ..demo.judging.beyond import BeyondJudge
    from ..demo.judging.held import Held
    from ..demo.judging.judge import FACT_COLUMNS, FactJudge, reword_all
    from ..demo.judging.sentences import FactSentences

    if not set(FACT_COLUMNS) <= set(activations.splits[request.report.report_split].column_names):
        return {"reword": reword_all}
    (site,) = lens.config.sites or [""]
    held = Held.learned(activations.splits["train"], site)
    said = {"judges": [FactJudge(held, site), BeyondJudge()], "sayings": [FactSentences()]}
    return {**said, "reword": reword_all, "questions": FactQuestions(held, site), "learned": {}}


def with_fresh(
    report: Report, lens: LensModel, activations: Activations, progress: bool, of_family: Mapping[str, Any]
) -> Report:
    """The report with what the lens does on stories that no tuning saw, at thousands of fact positions."""
    from ..demo.judging.fresh import ANYWHERE, FRESH, Drawn, fresh_rows

    assert lens.models is not None
    (site,) = lens.config.sites or [""]
    rows = fresh_rows(activations, lens.models.first, site)
    judges = [*of_family["judges"], Drawn()]
    given = {**of_family, "judges": judges, "brief": True}
    found = evaluate_lens(lens, lens.models, rows, split=FRESH, horizon=0, progress=progress, **given)
    parts = {"fresh_facts": "fact_positions", "fresh": ANYWHERE}
    where = {
        "fresh_facts": f"{found.definitions['fact_positions']}, in stories that no tuning saw",
        "fresh": found.definitions[ANYWHERE],
    }
    of_facts = ("fact_recall", "fact_precision_at_facts", "needed_precision", "follows_", "steered_")
    own = {
        name: n for name, n in found.judged.get("lens", {}).items() if name.startswith(of_facts) and "/" not in name
    }
    judged = {"lens, fresh": own}
    return with_parts(report, {name: found.parts[part] for name, part in parts.items()}, where, judged)


def with_world(report: Report, lens: LensModel, of_family: Mapping[str, Any]) -> Report:
    """The report with what such a world knows about a transcoder."""
    if lens.config.medium != "sparse" or not is_demo(lens.config.origin.model_id):
        return report
    from ..demo.transcoder.truth import measure_truth, with_truth

    assert lens.subject is not None
    transcoder: Any = lens
    return with_truth(report, measure_truth(transcoder, lens.subject, of_family.get("beside")))
