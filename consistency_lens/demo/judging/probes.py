"""What the activations of a lens's own rows hold: probes for each kind of fact, beside which its words can be read.

Shapes: B rows, d hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from consistency_lens.demo.probe import LinearProbe
from consistency_lens.demo.words import KINDS

if TYPE_CHECKING:
    from datasets import Dataset

LEAST = 100  # rows that a probe is taught on
NEEDED, ANYWHERE = "held_when_needed", "held_anywhere"
DEFINITIONS = {
    NEEDED: "share of the facts that the next token needs which a linear probe reads from A, taught on such rows of "
    "the training split: what there is to be named",
    ANYWHERE: "share of all facts stated so far, needed next or not, which a linear probe for their kind reads from "
    "A; chance is .1",
}


@dataclass(frozen=True)
class FactProbes:
    """Linear probes on one site's activations.

    Args:
        needed: kind -> a probe for the fact of that kind that the next token needs.
        anywhere: kind -> a probe for the fact of that kind at any row behind its statement.
    """

    needed: Mapping[str, LinearProbe]
    anywhere: Mapping[str, LinearProbe]

    @classmethod
    def learned(cls, rows: Dataset, site: str) -> FactProbes:
        """Probes taught on rows whose truth is known; none for a kind that too few of them have."""
        columns = rows.select_columns(["position", "facts", "fact_positions", site])
        vectors = torch.as_tensor(columns.with_format("torch", columns=[site])[:][site]).float()
        lists = columns.remove_columns(site)[:]
        needed, anywhere = _readings(lists)
        return cls(_taught(vectors, needed), _taught(vectors, anywhere))

    def read(self, vectors: Tensor, rows: Mapping[str, Sequence[Any]]) -> dict[str, tuple[Tensor, Tensor]]:
        """Number -> how many facts were read right and how many there were, `[B]` each; by kind, and needed ones of
        all kinds."""
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for name, probes, readings in zip(
            (NEEDED, ANYWHERE), (self.needed, self.anywhere), _readings(rows), strict=True
        ):
            for kind, probe in probes.items():
                right, there = torch.zeros(len(vectors)), torch.zeros(len(vectors))
                asked = readings[kind]
                for (row, value), said in zip(asked, probe.predict(vectors[[row for row, _ in asked]]), strict=True):
                    right[row] += said == value
                    there[row] += 1
                found[f"{name}/{kind}"] = right.double(), there.double()
        of_needed = [pair for name, pair in found.items() if name.startswith(NEEDED)]
        if of_needed:
            right, there = (torch.stack(side).sum(0) for side in zip(*of_needed, strict=True))
            found[NEEDED] = right, there
        return found


def _readings(rows: Mapping[str, Sequence[Any]]) -> tuple[dict[str, list[tuple[int, str]]], ...]:
    """Kind -> (row, value): of the fact that the next token needs, and of every fact stated so far."""
    needed: dict[str, list[tuple[int, str]]] = {kind: [] for kind in KINDS}
    anywhere: dict[str, list[tuple[int, str]]] = {kind: [] for kind in KINDS}
    columns = (rows["position"], rows["facts"], rows["fact_positions"])
    for row, (position, facts, spots) in enumerate(zip(*columns, strict=True)):
        for fact in facts:
            if fact["stated_at"] <= position:
                anywhere[fact["kind"]].append((row, fact["value"]))
        for spot in spots:
            if spot["position"] == position:
                fact = facts[spot["fact"]]
                needed[fact["kind"]].append((row, fact["value"]))
    return needed, anywhere


def _taught(vectors: Tensor, readings: Mapping[str, list[tuple[int, str]]]) -> dict[str, LinearProbe]:
    return {
        kind: LinearProbe.fit(vectors[[row for row, _ in asked]], [value for _, value in asked])
        for kind, asked in readings.items()
        if len(asked) >= LEAST
    }
