"""A run folder as the Space meets it, made in a moment: a lens, an earlier stage of it, a history and a report."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from extracting import saved_model
from fake_reports import narrow, report_of
from lens_runs import stirred, tiny_lens

from consistency_lens import ConsistencyLens, FrozenLM, Report

SPACE = Path(__file__).parents[1] / "spaces_demo"
if str(SPACE) not in sys.path:
    sys.path.insert(0, str(SPACE))

TEXT = "w1 w2 w3 w4 w5 w6 w7 w8"
HISTORY = [
    {"step": step, "eval_kl_recovered": 0.5 + step / 10, "eval_text_nll": 3.0 - step / 4, "loss": 1.0}
    for step in (1, 2, 3)
]
HOSTILE = "<script>window.pwned = 1</script><img src=x onerror='window.pwned=1'> ${window.pwned=1} {{7*7}} `x`"


@cache
def _home() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="consistency-lens-space-")


def tiny_report() -> Report:
    """Numbers of a lens that works."""
    scores = {"lens": 0.97, "context_tail": 0.6, "empty_text": 0.1, "truncation_1": 0.3}
    report = report_of(scores, on_facts={"lens": 0.99, "context_tail": 0.5}, training=HISTORY)
    report.traits.update(text_nll=narrow(3.0), length=narrow(8.0))
    return report


@cache
def run_folder() -> Path:
    """`lens`, `checkpoint-2`, `history.json` and `report`."""
    folder = Path(_home().name) / "some_demo_run"
    frozen = FrozenLM.from_pretrained(saved_model())
    for name, seed in (("lens", 0), ("checkpoint-2", 1)):
        stirred(tiny_lens(frozen), seed=seed).save_pretrained(folder / name)
    (folder / "history.json").write_text(json.dumps(HISTORY))
    tiny_report().save(folder / "report")
    return folder


@cache
def lenses() -> Any:
    """What the page of this run offers."""
    from lenses import Lenses

    return Lenses([str(run_folder())], subject=str(saved_model()))


def lens() -> ConsistencyLens:
    return lenses().get()


def new_desk() -> Any:
    """As the page has it, with no components: the views' functions use none."""
    from desk import Desk, Scans

    return Desk(lenses(), Scans(lenses()), *([None] * 8))  # type: ignore[arg-type]


def last(found: Iterator[Any]) -> Any:
    return list(found)[-1]
