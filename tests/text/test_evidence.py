"""Words that are hidden one by one: against whole passes with that mask, row by row; and what a text is made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lens_runs import SITE, arguments, tiny_rows, trainer_of
from tiny import shared_lm

from consistency_lens.errors import BadInput
from consistency_lens.frozen import FrozenLM
from consistency_lens.text.configuration import ConsistencyLensConfig
from consistency_lens.text.starting.evidence import LEAST, LEAST_CHANGE, agreement, evidence_of, room_of
from consistency_lens.text.starting.texts import StartingTexts

LENGTH = 8


def config_of(lm: FrozenLM, length: int = LENGTH) -> ConsistencyLensConfig:
    return ConsistencyLensConfig.for_subject(lm, SITE, code_length=length, prompt="w1 w2 <A> w3")


def contexts_of(rows: int = 6) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    wholes = [torch.randint(4, 60, (n,), generator=generator) for n in (17, 11)]
    return [wholes[0], wholes[1], wholes[0][:9], wholes[0][:13], wholes[1][:6], wholes[1][:2]][:rows]


def worth_of(lm: FrozenLM, context: torch.Tensor, token: int, ahead: int) -> float:
    """Written out: whole passes over the context and what the model says, the word hidden from all that predicts."""
    ids = context.tolist()
    for _ in range(ahead - 1):
        ids.append(int(lm.logits({"input_ids": torch.tensor([ids])})[0, -1].argmax()))
    p, total = len(context) - 1, len(ids)
    visible = torch.ones(total, total).tril().bool()
    visible[p:, :p] &= torch.tensor(ids[:p]) != token
    found = []
    for mask in (torch.ones(total, total).tril().bool(), visible):
        added = torch.zeros(1, 1, total, total).masked_fill(~mask, torch.finfo(torch.float32).min)
        logits = lm.model(input_ids=torch.tensor([ids]), attention_mask=added).logits[0, p:]
        found.append(logits.log_softmax(-1))
    return float((found[0].exp() * (found[0] - found[1])).sum(-1).mean())


@torch.no_grad()
@pytest.mark.parametrize("case", ["llama", "gpt2"])
def test_a_word_is_worth_what_hiding_it_costs(case: str) -> None:
    lm = shared_lm(case)
    contexts, config = contexts_of(), config_of(lm)
    words, ahead = room_of(LENGTH, 0.5)
    found = evidence_of(contexts, config, lm, exact=True)
    assert sum(map(len, found.worth)) > 4
    for context, worth in zip(contexts, found.worth, strict=True):
        assert len(worth) <= words
        for token, nats in worth:
            assert token in context[:-1].tolist()
            assert nats >= LEAST and nats == pytest.approx(worth_of(lm, context, token, ahead), abs=2e-3)
        places = [context.tolist().index(token) for token, _ in worth]
        assert places == sorted(places), "in the order of the context"


@torch.no_grad()
def test_the_best_words_are_found_among_all() -> None:
    """The gradient chooses few to hide; what it leaves out is worth less, in most rows."""
    lm = shared_lm("llama")
    contexts, config = contexts_of(2), config_of(lm)
    _, ahead = room_of(LENGTH, 0.5)
    for context, worth in zip(contexts, evidence_of(contexts, config, lm, exact=True).worth, strict=True):
        said = [int(i) for i in lm.prefix({"input_ids": context[None]}).continue_greedily(ahead)[0][0]]
        others = set(context[:-1].tolist()) - {int(context[-1]), *said, 0, 1, 2, 3}
        every = sorted((worth_of(lm, context, token, ahead) for token in others), reverse=True)
        best = max(nats for _, nats in worth)
        assert best == pytest.approx(every[0], abs=2e-3) or best >= every[1] - 2e-3


def change_of(lm: FrozenLM, context: torch.Tensor, ahead: int) -> dict[int, float]:
    """Written out: token -> by how much the log-probabilities of what the model says change where its attention logits
    do, from whole passes that lower them a little, column by column."""
    ids = context.tolist()
    for _ in range(ahead):
        ids.append(int(lm.logits({"input_ids": torch.tensor([ids])})[0, -1].argmax()))
    p, total, little = len(context) - 1, len(ids) - 1, 1e-2
    causal = torch.ones(total, total).tril().bool()
    found: dict[int, float] = {}
    for column in range(p):
        for query in range(p, total):
            sides = []
            for change in (little, -little):
                added = torch.zeros(total, total).masked_fill(~causal, torch.finfo(torch.float32).min)
                added[query, column] += change
                logits = lm.model(input_ids=torch.tensor([ids[:-1]]), attention_mask=added[None, None]).logits[0, p:]
                said = logits.log_softmax(-1).gather(1, torch.tensor(ids[p + 1 :])[:, None])
                sides.append(float(said[query - p]))
            token = ids[column]
            found[token] = found.get(token, 0.0) + abs(sides[0] - sides[1]) / (2 * little) / ahead
    return found


@torch.no_grad()
@pytest.mark.parametrize("case", ["llama", "gpt2"])
def test_the_fast_way_is_the_first_order_of_hiding(case: str) -> None:
    lm = shared_lm(case)
    context, config = contexts_of()[3], config_of(lm)
    words, ahead = room_of(LENGTH, 0.5)
    (worth,) = evidence_of([context], config, lm).worth
    said = lm.prefix({"input_ids": context[None]}).continue_greedily(ahead)[0][0].tolist()
    none = {int(context[-1]), *said, 0, 1, 2, 3}
    every = {token: nats for token, nats in change_of(lm, context, ahead).items() if token not in none}
    best = [pair for pair in sorted(every.items(), key=lambda pair: -pair[1])[:words] if pair[1] >= LEAST_CHANGE]
    assert worth and {token for token, _ in worth} == {token for token, _ in best}
    for token, nats in worth:
        assert nats == pytest.approx(every[token], rel=0.02, abs=1e-3)


@torch.no_grad()
def test_both_ways_name_much_the_same_words() -> None:
    lm = shared_lm("llama")
    contexts, config = contexts_of(), config_of(lm)
    fast, exact = (evidence_of(contexts, config, lm, exact=each) for each in (False, True))
    assert agreement(exact, exact) == 1.0 and agreement(fast, exact) > 0.5
    shifted = replace(fast, worth=[[(token + 64, nats) for token, nats in row] for row in fast.worth])
    assert agreement(shifted, exact) == 0.0


@torch.no_grad()
def test_rows_do_not_hang_on_what_they_run_with() -> None:
    lm = shared_lm("llama")
    contexts, config = contexts_of(), config_of(lm)
    together = evidence_of(contexts, config, lm)
    for row, context in enumerate(contexts):
        alone = evidence_of([context], config, lm)
        assert alone.words.ids[0].tolist() == together.words.ids[row].tolist()
        assert alone.quoted[0] == together.quoted[row]


@torch.no_grad()
def test_a_text_is_evidence_then_p_then_what_comes_next() -> None:
    lm = shared_lm("llama")
    contexts, config = contexts_of(), config_of(lm)
    _, ahead = room_of(LENGTH, 0.25)
    found = evidence_of(contexts, config, lm, share=0.25)
    for row, context in enumerate(contexts):
        quoted = [*(token for token, _ in found.worth[row]), int(context[-1])]
        said = lm.prefix({"input_ids": context[None]}).continue_greedily(ahead)[0][0].tolist()
        end = next((i for i, token in enumerate(said) if token < 4), len(said))
        text = found.words.ids[row][: int(found.words.lengths[row])].tolist()
        assert text == [*quoted, *said[:end]] and int(found.quoted[row]) == len(quoted)


def test_the_room_of_a_text() -> None:
    assert room_of(8, 0.5) == (4, 3) and room_of(8, 0.0) == (0, 7) and room_of(8, 1.0) == (6, 1)
    assert room_of(2, 0.5) == (0, 1) and room_of(1, 0.5) == (0, 1)


def test_padding_is_no_word_and_short_texts_are_texts() -> None:
    lm = shared_lm("llama")
    contexts = contexts_of()
    ids = torch.nn.utils.rnn.pad_sequence(contexts, True, 0, padding_side="left")
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    for length in (1, 2, 8):
        found = StartingTexts.of("evidence", batch, config_of(lm, length), lm)
        assert bool((found.words.lengths > 0).all()) and found.words.ids.shape == (6, length)
        assert bool((found.tail <= found.words.lengths).all())


def test_a_training_starts_from_it(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, warm_start="evidence", max_steps=12, warm_steps=12, warm_evidence=0.4)
    trainer.train()
    assert len(trainer.texts._prepared or []) == len(tiny_rows().splits["train"])


def test_what_cannot_be_hidden_or_grounded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="judged as a continuation") as caught:
        arguments(tmp_path, warm_start="evidence", ground_weight="0.5")
    assert caught.value.field == "ground_weight"
    with pytest.raises(BadInput, match="from 0 to 1"):
        arguments(tmp_path, warm_evidence=1.5)
    lm = shared_lm("mistral-window")
    with pytest.raises(BadInput, match="words cannot be hidden") as caught:
        evidence_of(contexts_of(), config_of(lm), lm)
    assert caught.value.value == "evidence"
