"""Probes on a lens's own rows find what was planted where it was planted, and are at chance elsewhere."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from datasets import Dataset
from test_judge import value

from consistency_lens.demo.judging.judge import FactJudge
from consistency_lens.demo.judging.probes import ANYWHERE, NEEDED, FactProbes
from consistency_lens.demo.stories import stories
from consistency_lens.demo.words import KINDS

SITE, WIDTH = "resid_post.1", 96
VALUES = [(kind, value) for kind, values in KINDS.items() for value in values]


@pytest.fixture(scope="module")
def rows() -> Dataset:
    """Rows at the positions that need a fact, which is planted there, and at others, which hold noise."""
    generator = torch.Generator().manual_seed(0)
    code = torch.randn(len(VALUES), WIDTH, generator=generator)
    table = []
    for story in stories(900, seed=4):
        truth = {
            "doc_id": story.doc_id,
            "facts": [asdict(fact) for fact in story.facts],
            "fact_positions": [asdict(spot) for spot in story.fact_positions],
        }
        for position in [*(spot.position for spot in story.fact_positions), len(story.words) - 1]:
            vector = torch.randn(WIDTH, generator=generator)
            for spot in story.fact_positions:
                if spot.position == position:
                    fact = story.facts[spot.fact]
                    vector += 4 * code[VALUES.index((fact.kind, fact.value))]
            table.append(truth | {"position": position, SITE: vector.tolist()})
    return Dataset.from_list(table)


def test_what_is_planted_is_held_when_needed_and_not_elsewhere(rows: Dataset) -> None:
    half = len(rows) // 2
    held, other = FactProbes.learned(rows.select(range(half)), SITE), rows.select(range(half, len(rows)))[:]
    assert set(held.needed) == set(held.anywhere) == set(KINDS)
    judge = FactJudge(held, SITE)
    assert SITE in judge.columns
    found = judge.judge([""] * len(other["position"]), other)
    assert set(found) <= set(judge.definitions)
    assert value(found, NEEDED) > 0.9
    at_need = sum(found[f"{NEEDED}/{kind}"][1].sum() for kind in KINDS)
    assert (
        at_need
        == found[NEEDED][1].sum()
        == sum(
            any(spot["position"] == position for spot in spots)
            for position, spots in zip(other["position"], other["fact_positions"], strict=True)
        )
    )
    for kind in KINDS:
        assert value(found, f"{NEEDED}/{kind}") > 0.75
        # Where it is needed the one planted there is read, elsewhere nothing: far fewer, and above chance for that.
        assert value(found, f"{ANYWHERE}/{kind}") < 0.55


def test_a_kind_with_too_few_rows_has_no_probe(rows: Dataset) -> None:
    held = FactProbes.learned(rows.select(range(60)), SITE)
    assert held.needed == {}
    assert NEEDED not in held.read(torch.randn(3, WIDTH), rows[:3])
