"""A probe finds what was planted, and nothing where nothing was."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from consistency_lens.demo.probe import LinearProbe, probe_sites
from consistency_lens.demo.stories import Story, stories
from consistency_lens.demo.tokenizer import build_tokenizer
from consistency_lens.demo.words import KINDS

VALUES = [(kind, value) for kind, values in KINDS.items() for value in values]


class PlantedLM:
    """Reads like a FrozenLM; `resid_post.1` holds the fact that comes next, every other site is noise."""

    num_layers = 3

    def __init__(self, rows: list[Story]) -> None:
        self.tokenizer = build_tokenizer()
        self.needed: dict[tuple[int, ...], dict[int, int]] = {}
        for row in rows:
            facts = {
                s.position: VALUES.index((row.facts[s.fact].kind, row.facts[s.fact].value)) for s in row.fact_positions
            }
            self.needed[tuple(self.tokenizer(row.text)["input_ids"])] = facts
        self.code = torch.randn(len(VALUES), 96, generator=torch.Generator().manual_seed(0))

    def read(self, batch: dict[str, Tensor], sites: list[str], positions: Tensor) -> dict[str, Tensor]:
        found = {site: torch.randn(*positions.shape, 96) for site in sites}
        for i, (ids, mask) in enumerate(zip(batch["input_ids"], batch["attention_mask"], strict=True)):
            needed = self.needed[tuple(ids[mask.bool()].tolist())]
            for k, position in enumerate(positions[i].tolist()):
                if position in needed and "resid_post.1" in found:
                    found["resid_post.1"][i, k] += 4 * self.code[needed[position]]
        return found


@pytest.fixture(scope="module")
def rows() -> list[Story]:
    return stories(700, seed=11)


def test_linear_probe_recovers_a_linear_code() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 7, (600,), generator=generator)
    centres = torch.randn(7, 20, generator=generator)
    x = 3 * centres[labels] + torch.randn(600, 20, generator=generator) + 5
    probe = LinearProbe.fit(x[:400], labels[:400].tolist())
    hits = [said == true for said, true in zip(probe.predict(x[400:]), labels[400:].tolist(), strict=True)]
    assert sum(hits) / len(hits) > 0.97
    assert probe.classes == tuple(range(7))


def test_linear_probe_is_ridge_regression() -> None:
    """The closed form against plain least squares with as little ridge."""
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    labels = [int(value > 0) for value in x[:, 0]]
    probe = LinearProbe.fit(x, labels)
    features = torch.cat([(x - x.mean(0)) / x.std(0), torch.ones(50, 1, dtype=torch.double)], dim=1)
    target = torch.nn.functional.one_hot(torch.tensor(labels)).double()
    exact = torch.linalg.lstsq(features, target).solution
    assert torch.allclose(probe.weight, exact, atol=5e-3)


def test_probe_finds_the_planted_site_only(rows: list[Story]) -> None:
    torch.manual_seed(0)
    table = {row.site: row for row in probe_sites(PlantedLM(rows), rows)}
    assert list(table) == ["embed", "resid_post.0", "resid_post.1", "resid_post.2"]
    planted = table.pop("resid_post.1")
    assert planted.accuracy > 0.95
    assert planted.low <= planted.accuracy <= planted.high <= 1.0
    assert planted.high - planted.low < 0.05
    assert planted.shuffled < 0.2
    assert planted.early < 0.1
    for row in table.values():
        assert row.accuracy < 0.1 and row.shuffled < 0.1 and row.early < 0.1
    assert 0.08 < planted.chance < 0.15


def test_positions_and_rows_are_not_mixed_up(rows: list[Story]) -> None:
    """Stories in another order give the same table for the same split of readings."""
    torch.manual_seed(0)
    order = list(rows)
    random.Random(0).shuffle(order)
    table = {row.site: row for row in probe_sites(PlantedLM(rows), order)}
    assert table["resid_post.1"].accuracy > 0.95
