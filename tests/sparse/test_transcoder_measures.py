"""What the report measures beyond fidelity: rate, density, reach, error nodes, a per-layer twin; each written out."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tiny import padded_batch, shared_lm
from transcoder_runs import blocks, transcoder
from transcoders import activations, small_lens

from consistency_lens.auto import evaluate_lens
from consistency_lens.errors import BadInput
from consistency_lens.evaluation import Report
from consistency_lens.evaluation.about import Chart
from consistency_lens.sparse.coding.documents import DocumentCode
from consistency_lens.sparse.coding.entries import Entries
from consistency_lens.sparse.measuring import density, error_nodes, reach
from consistency_lens.sparse.measuring.rate import (
    BITS,
    WHOLE,
    fewest_bits,
    index_bits,
    largest_values,
    quantised,
    quantised_edits,
    rate_of,
)
from consistency_lens.sparse.report.definitions import of_bits


@pytest.fixture(scope="module")
def report() -> Report:
    lens, other = transcoder(), transcoder(crosslayer=False, features=60)
    return evaluate_lens(
        lens,
        shared_lm("llama"),
        blocks(),
        batch_size=8,
        horizon=0,
        progress=False,
        beside={"per_layer": other},
        max_rows=10,
    )


def test_the_bits_of_a_choice_are_its_logarithm() -> None:
    counts = torch.tensor([[0, 1], [3, 16], [24, 24]])
    wanted = torch.tensor([[math.log2(math.comb(24, int(k))) for k in row] for row in counts], dtype=torch.float64)
    torch.testing.assert_close(index_bits(counts, 24), wanted, rtol=1e-9, atol=1e-9)
    assert rate_of(counts, 24, 4).tolist() == pytest.approx((wanted.sum(1) + 4 * counts.sum(1)).tolist())


def test_values_are_the_nearest_levels_dense_and_sparse() -> None:
    dense = torch.tensor([[0.0, 0.4, 3.0], [0.01, 0.0, 9.0]])
    largest = torch.tensor([1.0, 0.5, 4.0])
    said = quantised(dense, 2, largest)
    wanted = [[0.0, 0.5 * 2 / 3, 4.0 * 2 / 3], [1 / 3, 0.0, 4.0]]  # never 0 where active, never above the largest
    assert said.flatten().tolist() == pytest.approx([x for row in wanted for x in row])
    entries = Entries.where(dense > 0, dense)
    few = quantised(entries, 2, largest)
    assert isinstance(few, Entries) and torch.equal(few.dense(), said)
    torch.testing.assert_close(
        quantised(dense.clamp(max=largest), 16, largest), dense.clamp(max=largest), atol=1e-4, rtol=0
    )


def test_the_largest_values_are_those_of_the_tokens() -> None:
    lens, read = small_lens(nonlinearity="topk", k=3), activations(50)
    found = largest_values(lens, read)
    for i, active in enumerate(lens.encode(read, limit=0.0)):
        own = active.detach().amax(0)
        assert torch.equal(found[i][own > 0], own[own > 0])
        assert bool((found[i][own == 0] == own.max()).all())


def test_enough_bits_change_nothing() -> None:
    lens, model, batch = small_lens(nonlinearity="topk", k=3), shared_lm("llama"), padded_batch()
    read = model.read(batch, lens.config.read_sites)
    largest = largest_values(lens, torch.stack([each.flatten(0, 1) for each in read.values()], 1)) * 4
    plain = model.logits(batch, lens.replaced(batch))
    apart = [(model.logits(batch, quantised_edits(lens, batch, b, largest)) - plain).abs().max() for b in (2, 16)]
    assert apart[1] < 1e-2 < apart[0]


def test_the_fewest_bits_that_will_do() -> None:
    assert fewest_bits({2: 0.9, 3: 0.9951, 4: 0.999}, 1.0, (2, 3, 4)) == 3
    assert fewest_bits({2: 0.1, 3: 0.2, 4: 0.3}, 1.0, (2, 3, 4)) == WHOLE


def test_densities_fall_into_their_bins() -> None:
    counts = torch.tensor([[0, 1, 10, 1_000_000], [0, 0, 500, 100_000]])
    shares = density.histogram_of(counts, 1_000_000)
    assert shares.sum(1).tolist() == [1.0, 1.0]
    names = density.chart_of(counts, 1_000_000, [0, 1]).places
    assert len(names) == shares.shape[1] and names[:3] == ("never", "", "1e-05")
    assert shares[0, 0] == 0.25 and shares[0, 1] == 0.25 and shares[0, 2] == 0.25 and shares[0, -1] == 0.25
    assert shares[1, 0] == 0.5 and shares[1, names.index("1e-01")] == 0.25


@pytest.mark.parametrize("settings", [{}, {"tied_decoder": True}, {"crosslayer": False}], ids=str)
def test_reach_is_what_features_write_above_their_own_layer(settings: dict[str, bool]) -> None:
    lens, read, lengths = small_lens(nonlinearity="topk", k=3, **settings), activations(12), torch.tensor([5, 7])
    active = [each.detach() for each in lens.encode(read, limit=0.0)]
    found = reach.written_by_distance(DocumentCode(lens.code_of(active), lengths), reach.squares_of(lens))
    wanted = torch.zeros(2, 4, dtype=torch.float64)
    for i, (f, source) in enumerate(zip(active, lens.layers_in_order, strict=True)):
        rows = lens.targets.rows(i, source, torch.arange(24)).detach()
        for step in range(source.reach):
            norms = rows[:, step * 32 : (step + 1) * 32].norm(dim=1)
            each = (f * norms).square().sum(1)
            wanted[:, step] += torch.stack([each[:5].sum(), each[5:].sum()])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-8)
    assert bool((found[:, 1:] == 0).all()) is (settings.get("crosslayer") is False)


def test_the_profile_is_of_living_features_and_sums_to_one() -> None:
    lens = small_lens(nonlinearity="topk", k=3)
    alive = torch.ones(4, 24, dtype=torch.bool)
    alive[1] = False
    chart = reach.profile_of(reach.squares_of(lens), [0, 1, 2, 3], alive)
    assert sum(chart.lines["layer 0"]) == pytest.approx(1.0) and len(chart.lines["layer 0"]) == 4
    assert chart.lines["layer 1"] == (0.0,) and chart.lines["layer 3"] == (1.0,)


def test_error_nodes_leave_nothing_and_ablation_moves_beside_them() -> None:
    lens, model, batch = small_lens(nonlinearity="topk", k=3), shared_lm("llama"), padded_batch()
    columns = batch["attention_mask"].cumsum(1).gt(1) & batch["attention_mask"].bool()
    found = model.read(batch, lens.config.all_sites)
    read, written = (
        torch.stack([found[site][columns] for site in sites], 1)
        for sites in (lens.config.read_sites, lens.config.written_sites)
    )
    left = error_nodes.spread_out(written - lens.reconstruct(read), batch)
    assert bool((left[~columns] == 0).all())
    clean = model.logits(batch)
    whole = model.logits(batch, error_nodes.with_errors(lens.replaced(batch), left))
    torch.testing.assert_close(whole[columns], clean[columns], rtol=1e-4, atol=1e-4)
    other = model.logits(batch, error_nodes.with_errors(lens.replaced(batch, {(0, j): 0.0 for j in range(24)}), left))
    assert not torch.allclose(other[columns], clean[columns], atol=1e-2)


def test_the_report_has_them_all(report: Report, tmp_path: Path) -> None:
    assert report.number("kl", "with_errors").value < 1e-6 and report.number("top1", "with_errors").value == 1.0
    assert report.number("kl").value > 1e-3
    assert report.groups["controls"] == ["shuffled", "random", "pca", "per_layer"]
    assert report.number("ev", "per_layer").value < 1 and report.number("l0", "per_layer").value == pytest.approx(4)
    assert "per_layer" in report.parts["all"].differences
    bits = report.traits["value_bits"].value
    wanted = 4 * (math.log2(math.comb(48, 4)) + 4 * bits)  # a topk always has its k here
    assert report.number("rate").value == pytest.approx(wanted, rel=1e-3)
    assert 0 < report.traits["reach"].value < 1 and 0 < report.traits["reach_random"].value < 1
    assert {"rate", "value_bits", "reach", "with_errors", "values_2", "per_layer"} <= set(report.definitions)
    drawn = {path.name for path in report.save(tmp_path)}
    assert {"density.png", "reach.png", "value_bits.png"} <= drawn
    (costs,) = (chart.lines["all sites replaced"] for chart in report.about.charts if chart.name == "value_bits")
    assert costs == tuple(report.number("kl", code).value for code in (*map(of_bits, BITS), "lens"))
    again = Report.load(tmp_path)
    assert again.to_dict() == report.to_dict() and again.about == report.about


def test_a_twin_of_other_sites_is_refused() -> None:
    with pytest.raises(BadInput, match="per_layer"):
        evaluate_lens(
            transcoder(),
            shared_lm("llama"),
            blocks(),
            horizon=0,
            beside={"per_layer": transcoder(layers=[1, 2], crosslayer=False)},
        )


@pytest.mark.parametrize(("changes", "field"), [({"name": "../x"}, "chart"), ({"places": ()}, "places")])
def test_a_chart_that_cannot_be_drawn_is_refused(changes: dict[str, object], field: str) -> None:
    given = {
        "name": "a",
        "caption": "",
        "title": "",
        "axis": "",
        "height": "",
        "places": ("1",),
        "lines": {"x": (1.0,)},
    }
    with pytest.raises(BadInput) as caught:
        Chart(**{**given, **changes})  # type: ignore[arg-type]
    assert caught.value.field == field
