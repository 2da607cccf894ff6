"""Labels, cases, ablations and steps of a small model of the world, each against passes and values written out."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import shared_lm
from transcoder_runs import blocks
from transcoder_runs import transcoder as other_transcoder
from transformers import LlamaConfig, LlamaForCausalLM

from consistency_lens.auto import evaluate_lens
from consistency_lens.demo.stories import stories
from consistency_lens.demo.tokenizer import build_tokenizer
from consistency_lens.demo.transcoder import ablation, hops, needed
from consistency_lens.demo.transcoder.candidates import Activations, directions, features, neurons
from consistency_lens.demo.transcoder.cases import case_batches, cases_of
from consistency_lens.demo.transcoder.labels import FACTS, NONE, NUMBER, batches_of, column_of, labels_of
from consistency_lens.demo.transcoder.truth import DEFINITIONS, START, measure_truth, with_truth
from consistency_lens.demo.words import wordings
from consistency_lens.evaluation import Report
from consistency_lens.frozen import Edit, FrozenLM
from consistency_lens.sparse.coding.standardising import Moments
from consistency_lens.sparse.modeling import CrosslayerTranscoder

TOLD = stories(8, 0, START)


@cache
def model() -> FrozenLM:
    """Untrained, with weights large enough to be sensitive to what it reads."""
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=24, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return FrozenLM(LlamaForCausalLM(config), tokenizer, "small-world")


def transcoder(**settings: object) -> CrosslayerTranscoder:
    given: dict[str, object] = {"features": 32, "nonlinearity": "topk", "k": 6} | settings
    lens = CrosslayerTranscoder.from_subject(model(), **given)
    found = Activations.of(model(), lens, TOLD)
    lens.standardise(Moments.of(found.read), Moments.of(found.written))
    return lens.eval()


def test_labels_are_the_facts_of_their_tokens() -> None:
    labels = labels_of(TOLD)
    start = 0
    for number, story in enumerate(TOLD):
        end = start + len(story.words)
        assert bool((labels.document[start:end] == number).all())
        for fact in story.facts:
            assert int(labels.said[start + fact.stated_at - 1]) == NUMBER[fact.kind, fact.value]
        needs = {spot.position: story.facts[spot.fact] for spot in story.fact_positions}
        for place in range(len(story.words)):
            fact = needs.get(place + 1)
            wanted = NONE if fact is None else NUMBER[fact.kind, fact.value]
            assert int(labels.needed[start + place]) == wanted
            if fact is not None:
                assert story.words[place + 1] in wordings(fact.kind, fact.value)
        start = end
    assert len(FACTS) == 80 and len(labels.said) == start
    part, batch = next(batches_of(model(), TOLD, size=3))
    spot = part[1].fact_positions[0]
    following = batch["input_ids"][1, column_of(batch, 1, spot.position) + 1]
    assert model().tokenizer.decode(following) == part[1].facts[spot.fact].value


def test_a_counterfactual_differs_in_the_fact_alone() -> None:
    cases = cases_of(TOLD)
    assert any(case.by_synonym for case in cases) and any(not case.by_synonym for case in cases)
    for case in cases:
        other = case.counterfactual.split()
        changed = [i for i, (a, b) in enumerate(zip(case.words, other, strict=True)) if a != b]
        assert changed == [case.stated - 1] and other[changed[0]] == case.other != case.value
    batch = next(case_batches(model(), cases))
    for row, case in enumerate(batch.cases):
        assert (
            model().tokenizer.decode(batch.clean["input_ids"][row, batch.stated[row]]) == case.words[case.stated - 1]
        )
        assert model().tokenizer.decode(batch.answer[row]) == case.value


def test_candidates_are_what_the_model_computes() -> None:
    lens, frozen = transcoder(), model()
    found = Activations.of(frozen, lens, TOLD)
    for i, values in neurons(frozen, lens, found):
        part = frozen.model.model.layers[i].mlp
        half = values.shape[1] // 2
        torch.testing.assert_close(part.down_proj(values[:, :half]), found.written[:, i], rtol=1e-4, atol=1e-5)
        assert torch.equal(values[:, half:], -values[:, :half])
    for _, values in features(lens, found):
        assert values.shape[1] == 32 and bool(((values > 0).sum(1) <= 6).all())
    for i, values in directions(found, found):
        torch.testing.assert_close(values[:, :24].mean(0), torch.zeros(24), atol=1e-4, rtol=0)
        torch.testing.assert_close(
            values[:, :24].square().sum(), (found.read[:, i] - found.read[:, i].mean(0)).square().sum()
        )


def test_needed_facts_are_counted_story_by_story() -> None:
    frozen = model()
    records = needed.needed_said(frozen, TOLD, {"same": lambda batch: []})
    said, count = records.column("model", "needed_said"), records.weight("model", "needed_said")
    assert count.tolist() == [len(story.fact_positions) for story in TOLD]
    for story, right in zip(TOLD, said, strict=True):
        logits = frozen.logits({"input_ids": frozen.tokenizer(story.text, return_tensors="pt")["input_ids"]})[0]
        wanted = sum(
            frozen.tokenizer.decode(logits[spot.position].argmax()) == story.facts[spot.fact].value
            for spot in story.fact_positions
        )
        assert right == wanted
    assert (
        records.column("same", "needed_kept").tolist()
        == said.tolist()
        == records.weight("same", "needed_kept").tolist()
    )


def test_one_feature_is_ablated_in_its_own_row_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    lens, frozen, cases = transcoder(), model(), cases_of(TOLD, 4)
    chosen = {NUMBER[case.kind, case.value]: (row % 3, 5 + row) for row, case in enumerate(cases)}
    # An untrained model says no fact: what it says counts as the answer here.
    monkeypatch.setattr(ablation, "_said", lambda frozen, batch, edits: _likeliest(frozen, batch, edits))
    records, rows = ablation.ablations(frozen, lens, cases, chosen)
    assert rows == [case.story for case in cases]
    for row, case in enumerate(cases):
        layer, feature = chosen[NUMBER[case.kind, case.value]]
        batch = {"input_ids": frozen.tokenizer(case.text, return_tensors="pt")["input_ids"]}
        for name, before, after in (
            ("model", [], lens.changed({(layer, feature): 0.0}, batch)),
            ("replaced", lens.replaced(batch), lens.replaced(batch, {(layer, feature): 0.0})),
        ):
            first, second = (frozen.logits(batch, edits)[0, -1].softmax(-1).amax() for edits in (before, after))
            found = records.column("lens", f"drop_in_{name}")[row]
            assert found == pytest.approx(float((first - second).detach()), abs=1e-5)
    assert np.isin(
        records.column("lens", "drop_in_model/plain"), [0.0, *records.column("lens", "drop_in_model")]
    ).all()


def _likeliest(frozen, batch, edits):  # type: ignore[no-untyped-def]
    last = frozen.logits(batch.clean, edits, keep=1)[:, -1].detach()
    return last.softmax(-1).amax(1).double(), torch.ones(len(last), dtype=torch.bool)


@torch.no_grad()
def test_a_step_is_patching_written_out() -> None:
    """A step of the model by hand; and a lens that writes nothing has no effect by any route."""
    frozen, cases = model(), cases_of(TOLD, 3)
    batch = next(case_batches(frozen, cases))
    own = hops._OfModel(frozen, batch, [0, 1, 2])
    both = {name: torch.stack([own.step(name, i, j) for i, j in ((0, 1), (0, 2), (1, 2))]) for name in hops.PLACES}
    # By hand: layer 0 gets the other story's value at the statement, layer 1 makes something else of it.
    row, site = 1, "mlp_out.1"
    case = cases[row]
    ids, other = (frozen.tokenizer(text, return_tensors="pt") for text in (case.text, case.counterfactual))
    value = frozen.read(other, "mlp_out.0")["mlp_out.0"][:, case.stated]
    seen = {}
    keep = Edit(site, lambda read: seen.setdefault(site, read[site]), case.stated, reads=(site,))
    frozen.logits(ids, [Edit("mlp_out.0", value, case.stated), keep])
    logits = [frozen.logits(ids), frozen.logits(other), frozen.logits(ids, Edit(site, seen[site], case.stated))]
    first, second, third = (float((x[0, -1, batch.answer[row]] - x[0, -1, batch.rival[row]]).detach()) for x in logits)
    assert float(both["statement"][0, row]) == pytest.approx((first - third) / (first - second), rel=1e-3, abs=1e-4)
    silent = transcoder()
    with torch.no_grad():
        for source in silent.layers_in_order:
            source.W_dec.zero_()
    none = hops._OfLens(frozen, batch, silent)
    for step in hops._steps([0, 1, 2], 3):
        assert float(none.through(*step).abs().max()) == 0 == float(none.jump(*step).abs().max())


@torch.no_grad()
def test_jump_and_hop_of_a_transcoder_are_their_routes() -> None:
    frozen, cases, lens = model(), cases_of(TOLD, 3), transcoder()
    batch = next(case_batches(frozen, cases))

    def largest(made: hops._OfLens, route: str, *step: object) -> float:
        return float({"jump": made.jump, "through": made.through}[route](*step).abs().max())  # type: ignore[operator]

    made = hops._OfLens(frozen, batch, lens)
    assert largest(made, "jump", "need", 0, 2) > 1e-4 < largest(made, "through", "need", 0, 2)
    assert largest(made, "jump", "statement", 0, 1) > 1e-4
    # Nothing looks back at what the last layer writes at an earlier token.
    assert largest(made, "jump", "statement", 0, 2) == 0 == largest(made, "through", "statement", 0, 2)
    lens.layers_in_order[0].W_dec[:, 48:] = 0.0  # what layer 0 writes into layer 2
    made = hops._OfLens(frozen, batch, lens)
    assert largest(made, "jump", "need", 0, 2) < 1e-5 < largest(made, "jump", "need", 0, 1)
    alone = hops._OfLens(frozen, batch, transcoder(crosslayer=False))
    assert largest(alone, "jump", "need", 0, 1) == 0 < largest(alone, "through", "need", 0, 1)


def test_all_of_it_goes_into_a_report(tmp_path: Path) -> None:
    lens = transcoder()
    truth = measure_truth(lens, model(), {"per_layer": transcoder(crosslayer=False)}, told=8, cases=6)
    assert {"lens", "random", "per_layer", "neurons", "pca", "model", "shuffled", "mean"} <= set(truth.numbers)
    assert 0 <= truth.numbers["lens"]["f1_said"].value <= 1 and "needed_said" in truth.numbers["model"]
    assert {name for numbers in truth.numbers.values() for name in numbers} <= set(DEFINITIONS)
    assert truth.chosen and all(0 <= layer < 3 and 0 <= j < 32 for layer, j, _ in truth.chosen.values())
    again = measure_truth(lens, model(), {"per_layer": transcoder(crosslayer=False)}, told=8, cases=6)
    assert again == truth
    report = evaluate_lens(other_transcoder(), shared_lm("llama"), blocks(), horizon=0, progress=False, max_rows=4)
    judged = with_truth(report, truth)
    judged.save(tmp_path)
    assert Report.load(tmp_path).judged == truth.numbers
    assert "f1_said" in (tmp_path / "report.md").read_text()
