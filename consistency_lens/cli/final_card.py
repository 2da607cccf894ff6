"""The card of a lens that has its report: numbers, plots, explanations, and a snippet with what it prints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..activations import Activations
from ..auto import report_of
from ..base.comparing.rows import CLOSE, OPEN
from ..base.modeling import LensModel
from ..base.saving.lens_card import CARD, TrainingRecord, facts_of, printed, short_text, usage
from ..card import CardFacts, model_card, write_card, write_results
from ..evaluation import Report
from ..evaluation.examples import examples
from ..evaluation.presenting.card import lay_beside, with_report
from .run_folder import LENS


def finish_card(lens: LensModel, report: Report, activations: Activations, plots: Path, folder: Path) -> Path:
    """Write it into the folder of the lens, with the report beside it; what a person has added there stays.

    Args:
        lens: with its frozen model.
        report: of this lens, saved in `plots`.
        activations: that it was evaluated on.
        folder: of the lens. The card repeats what its training has recorded there.
    """
    record = TrainingRecord.load(folder) or TrainingRecord(name=_name(folder.resolve()))
    record = record if record.counts else record.about(activations.metadata)
    rows = examples(lens, report_of(lens), activations, report.data["split"])
    facts = lay_beside(plots, folder, with_report(facts_of(lens.config, record), report, rows))
    facts = replace(facts, of_family=lens.on_card())
    write_results(folder, facts.results)
    return write_card(folder, model_card(_with_snippet(facts, lens, record)), CARD)


def _name(folder: Path) -> str:
    return folder.parent.name if folder.name == LENS else folder.name


def _with_snippet(facts: CardFacts, lens: LensModel, record: TrainingRecord) -> CardFacts:
    """The snippet reads the shortest text that the lens reads well, and shows what it prints."""
    texts = [short_text(_unmarked(row["context"])) for row in facts.good]
    text = min(texts, key=len, default=record.example)
    snippet = usage(record.name, lens.config, text)
    return replace(facts, usage=snippet, printed=printed(lens, text))


def _unmarked(context: str) -> str:
    return context.replace(OPEN, "").replace(CLOSE, "")
