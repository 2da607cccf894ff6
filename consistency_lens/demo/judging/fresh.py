"""Stories that nobody has tuned on: rows for a report at all their fact positions, and at one more position of each.

Whoever chooses weights looks at a test set again and again. These stories are numbered far from all others, and no
training, recipe or study reads them.

Shapes: N rows, d hidden size.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from torch import Tensor

from consistency_lens.activations import Activations
from consistency_lens.demo.stories import Story, story
from consistency_lens.errors import BadInput
from consistency_lens.frozen import FrozenLM

FRESH, ANYWHERE = "fresh", "anywhere"
FRESH_START = 3_000_000_000  # the first of these stories; training and held-out ones of the model lie below
STORIES = 1000
BATCH = 64


def fresh_rows(
    activations: Activations, frozen: FrozenLM, sites: str | Sequence[str], stories: int = STORIES, seed: int = 0
) -> Activations:
    """The same training rows and statistics, with a split `fresh` beside them.

    Args:
        activations: of the demo world.
        frozen: its model.
        sites: that are read.
        stories: how many; each gives a row for every fact that it needs, about three, and one at a position drawn
            from all that the rules of the rows allow. The latter have `anywhere` true.
        seed: of the world, and of the positions.
    """
    if stories < 2:
        raise BadInput("stories", stories, "Use 2 or more: each row needs a partner of another document.")
    activations.require_model(frozen)
    told = [story(seed, FRESH_START + number) for number in range(stories)]
    rules, rows = activations.metadata["rules"], []
    for first in range(0, stories, BATCH):
        rows += _rows_of(told[first : first + BATCH], frozen, sites, rules, seed)
    split = Dataset.from_list(rows)
    counts = {**activations.metadata["splits"], FRESH: {"documents": stories, "rows": len(rows)}}
    splits = DatasetDict({**activations.splits, FRESH: split})
    return replace(activations, splits=splits, metadata={**activations.metadata, "splits": counts})


def _rows_of(
    told: Sequence[Story], frozen: FrozenLM, sites: str | Sequence[str], rules: Mapping[str, Any], seed: int
) -> list[dict[str, Any]]:
    """The rows of some stories: read in one pass, each position of each."""
    batch = frozen.tokenizer([one.text for one in told], padding=True, return_tensors="pt")
    found = {site: read.float().cpu() for site, read in frozen.read(batch, sites).items()}
    rows = []
    for number, one in enumerate(told):
        ids = frozen.tokenizer(one.text)["input_ids"]
        drawn = random.Random(f"fresh/{seed}/{one.doc_id}").randint(rules["min_position"], len(ids) - 2)
        positions = [(spot.position, False) for spot in one.fact_positions] + [(drawn, True)]
        for position, anywhere in positions:
            rows.append(
                {
                    "doc_id": one.doc_id,
                    "input_ids": ids[: position + 1],
                    "continuation_ids": ids[position + 1 :][: rules["continuation_length"]],
                    "position": position,
                    "facts": [asdict(fact) for fact in one.facts],
                    "fact_positions": [] if anywhere else [asdict(spot) for spot in one.fact_positions],
                    ANYWHERE: anywhere,
                    **{site: read[number, position].tolist() for site, read in found.items()},
                }
            )
    return rows


class Drawn:
    """Tells the rows that were drawn from all positions from those that were chosen for their fact."""

    name = "drawn"
    columns: Sequence[str] = (ANYWHERE,)
    definitions: Mapping[str, str] = {ANYWHERE: "P is drawn from all positions of a story that no tuning saw"}

    def judge(
        self, explanations: Sequence[str], rows: Mapping[str, Sequence[Any]]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        return {}

    def subsets(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, Tensor]:
        return {ANYWHERE: torch.as_tensor(rows[ANYWHERE]).bool()}
