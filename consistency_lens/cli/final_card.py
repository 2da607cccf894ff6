"""The card of a lens that has its report: numbers, plots, explanations, and a snippet with what it prints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..activations import Activations
from ..auto import report_of
from ..base.comparing.rows import CLOSE, OPEN
from ..base.lens_card import CARD, TrainingRecord, facts_of, printed, short_text, usage
from ..base.modeling import LensModel
from ..card import CardFacts, Explanation, model_card, write_card
from ..evaluation import HeldOut, Report
from ..evaluation.examples import examples
from ..evaluation.presenting.card import lay_beside, with_report
from .run_folder import LENS

ROWS, BATCH = 256, 32


def finish_card(lens: LensModel, report: Report, activations: Activations, plots: Path, folder: Path) -> Path:
    """Write it into the folder of the lens, with the report beside it; what a person has added there stays.

    Args:
        lens: with its subject.
        report: of this lens, saved in `plots`.
        activations: that it was judged on.
        folder: of the lens. What its training left there is told again.
    """
    record = TrainingRecord.load(folder) or TrainingRecord(name=_name(folder.resolve()))
    record = record if record.counts else record.about(activations.metadata)
    assert lens.models is not None
    family, held_out = report_of(lens), HeldOut(report.data["split"], ROWS, BATCH, horizon=0)
    family.begin(lens, lens.models, activations, held_out)
    rows = examples(lens, family, _batches(activations, held_out.split))
    facts = lay_beside(plots, folder, with_report(facts_of(lens.config, record), report, rows))
    return write_card(folder, model_card(_with_snippet(facts, lens, record)), CARD)


def _name(folder: Path) -> str:
    return folder.parent.name if folder.name == LENS else folder.name


def _with_snippet(facts: CardFacts, lens: LensModel, record: TrainingRecord) -> CardFacts:
    """The snippet reads the shortest text that the lens reads well, and shows what it prints."""
    texts = [short_text(_unmarked(row)) for row in facts.good]
    text = min(texts, key=len, default=record.example)
    snippet = usage(record.name, lens.config, text)
    return replace(facts, usage=snippet, printed=printed(lens, text))


def _unmarked(row: Explanation) -> str:
    return row.context.replace(OPEN, "").replace(CLOSE, "")


def _batches(activations: Activations, split: str) -> Iterator[dict[str, Any]]:
    """The first rows in an order that mixes documents: the same ones for every lens."""
    rows, collate = activations.splits[split], activations.collator(pair=False)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()[:ROWS]
    for first in range(0, len(order), BATCH):
        yield collate([rows[i] for i in order[first : first + BATCH]])
