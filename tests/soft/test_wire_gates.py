"""The gates that a wire has to pass, in their order, on models that were drawn at random.

Embeddings are ids, the loss is one sliced by hand, and bytes come back: `test_latent_wire.py`. Here: a frozen model
can read a code at all, the wire can write one, what it writes is used, and by both models.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from datasets import Dataset
from wire_runs import NAMES, batch_of, wire_lens, wire_models

from consistency_lens.activations.passages import context_of
from consistency_lens.objectives import answer_nll_of
from consistency_lens.soft.code import LatentCode
from consistency_lens.soft.data import collator_of
from consistency_lens.soft.modeling import LatentWire
from consistency_lens.soft.report.answering import Answering

ROWS = 8


def examples() -> Dataset:
    """One prompt for all: nothing but the passage says what to answer."""
    given = {"prompt": "w90", "task": "answer", "ends": True}
    passages = [" ".join(f"w{(11 * i + 29 * j) % 88}" for j in range(6)) for i in range(ROWS)]
    answers = [[f"w{(17 * i + 3) % 88} w{(5 * i + 1) % 88}"] for i in range(ROWS)]
    return Dataset.from_list(
        [given | {"row": i, "doc_id": i, "passage": passages[i], "answers": answers[i]} for i in range(ROWS)]
    )


def exact(logits: torch.Tensor, tokens: Any) -> float:
    """Share of answers whose every token, the end included, is the likeliest one behind those before it."""
    right = (logits.argmax(-1) == tokens["answer_ids"]) | ~tokens["answer_mask"].bool()
    return float(right.all(1).float().mean())


@cache
def overfitted() -> tuple[LatentWire, dict[str, Any]]:
    """A wire that learned a few examples by heart, at two tokens per vector, for both models in turn."""
    lens = wire_lens(slots=3, bits=8)
    batch = collator_of(lens.config, wire_models())([*examples()])
    optimizer = torch.optim.Adam(lens.parameters(), 1e-2)
    for step in range(240):
        output = lens(batch, wire_models(), NAMES[step % 2])
        assert output.terms is not None
        optimizer.zero_grad()
        output.terms["ce"].mean().backward()
        optimizer.step()
    return lens.eval(), batch


@torch.no_grad()
def read(lens: LatentWire, batch: dict[str, Any], code: LatentCode, name: str) -> torch.Tensor:
    return Answering.among(wire_models()[name], batch["tokens"][name]).edited(lens.soft_tokens(code, batch, name))


@torch.no_grad()
def test_what_a_model_says_of_the_text_costs_less_than_ln_v_and_more_where_labels_are_shifted_twice() -> None:
    for name, model in wire_models().items():
        context = context_of(batch_of(8)["tokens"][name], "full")
        said = model.generate(context, max_new_tokens=4, min_new_tokens=4).texts(model.tokenizer)
        rows = [
            {"passage": passage, "prompt": "w90", "answers": [text], "task": "answer", "ends": False}
            for passage, text in zip(batch_of(8)["passage"], said, strict=True)
            if len(text.split()) > 1
        ]
        assert len(rows) >= 2, said
        tokens = collator_of(wire_lens().config, wire_models())(rows)["tokens"][name]
        ids, mask = tokens["answer_ids"], tokens["answer_mask"]
        logits = model.logits(tokens["full"], keep=ids.shape[1])
        nll = float(answer_nll_of(logits, ids, mask).mean())
        shifted = float(answer_nll_of(logits[:, :-1], ids[:, 1:], mask[:, 1:]).mean())
        assert nll < math.log(model.vocab_size) and nll + 0.3 < shifted, name


def test_a_code_that_is_fitted_to_each_example_reaches_the_answer_of_the_text() -> None:
    lens, batch = wire_lens(slots=2), batch_of(6)
    start = lens.compress(batch)
    for name, model in wire_models().items():
        compared = Answering.among(model, batch["tokens"][name])
        answers, mask = compared.clean.argmax(-1), compared.mask
        vectors = start.vectors.clone().requires_grad_()
        optimizer = torch.optim.Adam([vectors], 0.1)
        for _ in range(80):
            logits = compared.edited(lens.soft_tokens(LatentCode(vectors, start.mask), batch, name))
            optimizer.zero_grad()
            answer_nll_of(logits, answers, mask).sum().backward(inputs=[vectors])
            optimizer.step()
        right = (logits.argmax(-1) == answers) | ~mask.bool()
        assert bool(right.all()), name
        before = compared.edited(lens.soft_tokens(start, batch, name)).argmax(-1)
        assert not bool(((before == answers) | ~mask.bool()).all())


def test_a_few_examples_are_learned_by_heart_for_both_models() -> None:
    lens, batch = overfitted()
    code = lens.compress(batch)
    for name in NAMES:
        tokens = batch["tokens"][name]
        assert exact(read(lens, batch, code, name), tokens) == 1.0, name
        none = Answering.among(wire_models()[name], tokens).edited([])
        assert exact(none, tokens) == 0.0


def test_another_passages_code_is_worth_no_more_than_none() -> None:
    lens, batch = overfitted()
    code = lens.compress(batch)
    other = code.take(torch.arange(ROWS).roll(1))
    for name in NAMES:
        tokens = batch["tokens"][name]
        ids, mask = tokens["answer_ids"], tokens["answer_mask"]
        own, shuffled = (read(lens, batch, each, name) for each in (code, other))
        none = Answering.among(wire_models()[name], tokens).edited([])
        nll = [float(answer_nll_of(logits, ids, mask).mean()) for logits in (own, shuffled, none)]
        assert exact(shuffled, tokens) == 0.0 and nll[0] < 1.2 and min(nll[1:]) > 3, (name, nll)
        assert nll[1] > 0.8 * nll[2]


def test_what_arrives_in_bytes_is_read_alike() -> None:
    lens, batch = overfitted()
    code = lens.compress(batch)
    again = lens.from_wire(lens.wire(code))
    for name in NAMES:
        assert torch.equal(read(lens, batch, again, name), read(lens, batch, code, name))
