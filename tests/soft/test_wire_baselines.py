"""What a wire is measured beside: dropped tokens, fitted codes, answers that two receivers settle together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from wire_runs import NAMES, batch_of, wire_lens, wire_models

from consistency_lens.soft.report.answering import Answering
from consistency_lens.soft.report.controls import better_of, texts_at, truncated, turned
from consistency_lens.soft.report.definitions import place_of
from consistency_lens.soft.report.dropping import least_expected, self_information
from consistency_lens.soft.report.fitting import fitted, some_rows
from consistency_lens.soft.report.rescoring import rescored


@pytest.mark.parametrize("name", NAMES)
def test_self_information_is_that_of_the_model(name: str) -> None:
    model, tokens = wire_models()[name], batch_of(5)["tokens"][name]
    found = self_information(model, tokens)
    bos = [model.tokenizer.bos_token_id] if tokens["bos"] else []
    for row, length in enumerate(tokens["passage_mask"].sum(1).tolist()):
        ids = tokens["passage_ids"][row, :length].tolist()
        alone = torch.tensor([[*bos, *ids]])
        with torch.no_grad():
            logs = model.model(input_ids=alone).logits[0].log_softmax(-1)
        slow = [-float(logs[i - 1, token]) if i else float("inf") for i, token in enumerate(alone[0].tolist())]
        slow = slow[1:] if bos else slow
        assert found[row, :length].tolist() == pytest.approx(slow, abs=1e-4)
        assert (found[row, length:] == -torch.inf).all()


def test_the_least_expected_tokens_are_kept_in_their_order() -> None:
    model, tokens = wire_models()["words"], batch_of(6)["tokens"]["words"]
    counts, bits = torch.tensor([1, 2, 3, 2, 1, 9]), self_information(model, tokens)
    chosen, mask = least_expected(model, tokens, counts)
    for row, length in enumerate(tokens["passage_mask"].sum(1).tolist()):
        n = min(int(counts[row]), length)
        wanted = sorted(sorted(range(length), key=lambda i: -float(bits[row, i]))[:n])
        assert chosen[row][mask[row]].tolist() == wanted
    words = texts_at(model, tokens, chosen, mask)
    assert [len(text.split()) for text in words] == mask.sum(1).tolist()


def test_a_fitted_code_is_better_than_the_compressors() -> None:
    lens, batch = wire_lens(slots=2), some_rows(batch_of(6), 3)
    assert len(batch["task"]) == 3 and len(batch["tokens"]["words"]["bare"]["input_ids"]) == 3
    code = lens.compress(batch)
    before = code.vectors.clone()
    found = fitted(lens, wire_models(), batch, code)
    for name in NAMES:
        compared = Answering.among(wire_models()[name], batch["tokens"][name])
        own = compared.measure(lens.soft_tokens(code, batch, name))["nll"]
        assert (found[f"oracle_nll/{name}"] < own).all() and (found[f"oracle_first_token/{name}"] == 1).all()
        assert torch.allclose(found[f"oracle_gap/{name}"], own - found[f"oracle_nll/{name}"], atol=1e-4)
    assert torch.equal(code.vectors, before) and all(p.grad is None for p in lens.parameters())


def test_the_answer_that_both_find_likeliest_is_given() -> None:
    lens, batch, models = wire_lens(slots=2), batch_of(4), wire_models()
    code = lens.compress(batch)
    edits = {name: [lens.soft_tokens(code, batch, name)] for name in NAMES}
    said = {"words": ["w1", "w2 w3", "", "w5"], "turned": ["w4", "w7", "w8", ""]}
    chosen = rescored(lens.config, models, batch, edits, said)
    assert chosen[2] == "w8" and chosen[3] == "w5", "what says nothing is never chosen"

    def slow(row: int, text: str) -> float:
        """The sum of the log probabilities of its words and the end, of both models."""
        total = 0.0
        for name, model in models.items():
            tokens = batch["tokens"][name]
            ids = [*model.tokenizer(text, add_special_tokens=False)["input_ids"], model.tokenizer.eos_token_id]
            before = tokens["bare"]["input_ids"][row : row + 1, : -tokens["answer_ids"].shape[1] + 1 or None]
            whole: Any = torch.cat([before, torch.tensor([ids[:-1]])], 1)
            edit = lens.soft_tokens(code.take(torch.tensor([row])), some_rows(batch, 1), name)
            with torch.no_grad():
                logits = model.logits({"input_ids": whole, "attention_mask": torch.ones_like(whole)}, edit, len(ids))
            total += float(logits[0].log_softmax(-1)[range(len(ids)), ids].sum())
        return total

    for row in (0, 1):
        scores = {text: slow(row, text) for text in (said["words"][row], said["turned"][row])}
        assert chosen[row] == max(scores, key=lambda text: scores[text])


def test_the_better_of_two_cuts_is_chosen_row_by_row() -> None:
    lens, batch, models = wire_lens(slots=2), batch_of(6), wire_models()
    comparison = lens.comparison(models, batch)
    counts = torch.full((6,), 2)
    cuts = [
        [truncated(models[name], batch["tokens"][name], counts, how) for name in NAMES] for how in ("first", "last")
    ]
    best = better_of(comparison, *cuts)
    for name in NAMES:
        one, other, found = (comparison.measure(edits)[f"nll/{name}"] for edits in (*cuts, best))
        assert torch.allclose(found, torch.minimum(one, other), atol=1e-5)


def test_a_turned_code_is_as_long_and_another() -> None:
    code = wire_lens(slots=2).compress(batch_of(6))
    other = turned(code)
    assert torch.allclose(other.vectors.norm(dim=-1), code.vectors.norm(dim=-1), rtol=1e-4)
    assert torch.equal(other.mask, code.mask) and not torch.allclose(other.vectors, code.vectors, atol=0.1)


def test_the_place_of_an_answer() -> None:
    assert place_of("one two three", ["two"]) == pytest.approx(4 / 13)
    assert place_of("one two three", ["four", "three", "two"]) == pytest.approx(4 / 13)
    assert place_of("one two", ["four"]) != place_of("one two", ["four"])
