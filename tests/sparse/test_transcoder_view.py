"""What the explorer shows of a transcoder: what it says is what the lens does, computed another way."""

from __future__ import annotations

from typing import Any

import pytest
from transcoders import small_lens

from consistency_lens import BadInput, view_of
from consistency_lens.base.viewing import Bars, Figures, Grid, Slider
from consistency_lens.sparse.features.logit_effect import effects
from consistency_lens.sparse.view import MOST, ActiveFeature, TranscoderView, excerpt

TEXT = "w1 w2 w3 w4 w5 w6"


def view(**settings: Any) -> TranscoderView:
    found = view_of(small_lens(**settings))
    assert isinstance(found, TranscoderView)
    return found


def part(parts: Any, kind: type, title: str = "") -> Any:
    return next(each for each in parts if isinstance(each, kind) and each.title == title)


def test_rows_are_those_of_the_lens_and_a_row_from_near_says_the_same() -> None:
    shown = view()
    rows = shown.rows(TEXT, shown.positions(TEXT))
    assert rows == shown.lens.explain(TEXT) and len(rows) == 6
    near = shown.near(TEXT, 4)
    (row,) = shown.rows(TEXT, [4])
    assert (near.unit, near.position, near.token) == ("Token", 4, "w4")
    counts = [int(count) for _, count in part(near.parts, Grid, "Active features").rows]
    assert sum(counts) == row["active"] and len(counts) == 4
    bars = part(near.parts, Bars, "What the model says next")
    assert row["before"][0][0] in dict(bars.before) and [t for t, _ in bars.before] == [t for t, _ in bars.after]
    assert dict(bars.after)[row["after"][0][0]] == pytest.approx(row["after"][0][1], rel=1e-4)


def test_sliders_are_of_the_features_that_write_most_and_stay_within_bounds() -> None:
    shown = view()
    found = shown.features(TEXT, 3)
    assert len(found) <= MOST and [f.layer for f in found] == sorted(f.layer for f in found)
    token = shown.lens.features(TEXT, 10_000)[2]
    active = {(layer, index): value for layer, index, value in token["features"]}
    assert all(active[f.layer, f.index] == pytest.approx(f.value, rel=1e-5) for f in found)
    norms = shown.lens.norms()
    for layer in {f.layer for f in found}:
        written = sorted((v * float(norms[at[0]][at[1]]) for at, v in active.items() if at[0] == layer), reverse=True)
        own = [f.value * float(norms[layer][f.index]) for f in found if f.layer == layer]
        assert own == pytest.approx(written[: len(own)], rel=1e-4)
    sliders = [c for c in shown.controls(TEXT, 3) if isinstance(c, Slider)]
    assert [c.name for c in sliders] == [f.name for f in found]
    assert all((c.low, c.high, c.start) == (0.0, 4.0, 1.0) for c in sliders)


def test_what_a_feature_makes_likelier_is_its_direct_effect_and_its_label_is_that_of_the_lens() -> None:
    shown = view()
    found = shown.features(TEXT, 3)
    (feature,) = [each for each in found if each.layer == 2][:1]
    (_, logits) = next(effects(shown.lens, 2))
    words = [shown.frozen.tokenizer.decode(i) for i in logits[feature.index].topk(3).indices.tolist()]
    assert feature.likelier == words and feature.label == feature.context == ""
    context = {"tokens": [" a", " b", " c", " d"], "at": 2}
    assert excerpt(context) == "a b [c] d"
    told = ActiveFeature(1, 7, 0.5, ["x"], "wagons", "a b [c] d")
    assert told.said == "value 0.50; makes likelier: x; most active at “a b [c] d”"


@pytest.mark.parametrize("inside", ["model", "lens"])
def test_turning_a_feature_is_what_amplify_does(inside: str) -> None:
    shown = view()
    first = shown.features(TEXT, 6)[0]
    found = shown.changed(TEXT, 6, {first.name: 0.0, "inside": inside})
    expected = shown.lens.amplify(TEXT, {(first.layer, first.index): 0.0}, inside, 6)
    bars = part(found, Bars, "What is predicted next")
    for side, likely in ((bars.before, expected.before), (bars.after, expected.after)):
        token, chance = likely[0]
        assert dict(side)[token] == pytest.approx(chance, rel=1e-4)
    facts = {name: value for name, value, _ in part(found, Figures).items}
    assert float(facts["KL"]) == pytest.approx(expected.kl, abs=6e-4) and expected.kl > 0
    assert facts["turned"] == "1"
    (_, before), (_, after) = part(found, Grid, "How it goes on").rows
    assert before and after and before.split()[0] == expected.before[0][0]


def test_nothing_turned_changes_nothing() -> None:
    shown = view(nonlinearity="batchtopk", k=5)
    found = shown.changed(TEXT, 3, {})
    bars = part(found, Bars, "What is predicted next")
    assert bars.before == bars.after
    assert {name: value for name, value, _ in part(found, Figures).items}["KL"] == "0.000"


def test_what_is_not_shown_cannot_be_turned() -> None:
    shown = view()
    name = shown.features(TEXT, 3)[0].name
    for given, said in [
        ({"0/9999": 0}, "Change some of"),
        ({name: 5}, "from 0 to 4"),
        ({"inside": "x"}, "model, lens"),
    ]:
        with pytest.raises(BadInput, match=said):
            shown.changed(TEXT, 3, given)
    for position in (0, 7):
        with pytest.raises(BadInput, match="tokens 1 to 6"):
            shown.near(TEXT, position)
