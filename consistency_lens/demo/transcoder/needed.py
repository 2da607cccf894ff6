"""Does the model still say the facts that it needs, with a lens in the place of its MLPs?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from consistency_lens.demo.stories import Story
from consistency_lens.demo.transcoder.labels import batches_of, column_of
from consistency_lens.evaluation.bootstrap import Records
from consistency_lens.frozen import Edit, FrozenLM

Edits = Callable[[Mapping[str, Tensor]], Sequence[Edit]]  # a batch -> what is written
MODEL = "model"  # the code of the untouched model

DEFINITIONS = {
    "needed_said": "share of the needed facts (the next token says one, and nothing near gives it away) whose word is "
    "the likeliest next token",
    "needed_kept": "the same, of those that the untouched model says",
}


@torch.no_grad()
def needed_said(frozen: FrozenLM, told: Sequence[Story], codes: Mapping[str, Edits]) -> Records:
    """A row for each story.

    Args:
        frozen: the model.
        told: the stories.
        codes: name -> edits; the untouched model comes by itself.
    """
    records = Records()
    for part, batch in batches_of(frozen, told):
        rows: list[int] = []
        columns: list[int] = []
        for row, story in enumerate(part):
            for spot in story.fact_positions:
                rows.append(row)
                columns.append(column_of(batch, row, spot.position))
        places = torch.tensor(rows, dtype=torch.long), torch.tensor(columns, dtype=torch.long)
        ids = batch["input_ids"].cpu()[places[0], places[1] + 1]
        right = _right(frozen, batch, (), places, ids)
        _add(records, MODEL, "needed_said", right, torch.ones_like(right), places[0], len(part))
        for name, edits in codes.items():
            own = _right(frozen, batch, edits(batch), places, ids)
            _add(records, name, "needed_said", own, torch.ones_like(own), places[0], len(part))
            _add(records, name, "needed_kept", own & right, right, places[0], len(part))
    return records


def _right(frozen: FrozenLM, batch: Mapping[str, Tensor], edits: Any, places: Any, ids: Tensor) -> Tensor:
    said = frozen.logits(batch, list(edits)).argmax(-1).cpu()
    return said[places[0], places[1]] == ids


def _add(records: Records, code: str, name: str, hits: Tensor, of: Tensor, rows: Tensor, count: int) -> None:
    above, below = (torch.bincount(rows, weights=x.double(), minlength=count) for x in (hits, of))
    records.add(code, {name: above}, {name: below})
