"""Words that the model will need far behind P: against small steps of whole passes, row by row; and what a text is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lens_runs import arguments, tiny_rows, trainer_of
from test_evidence import config_of, contexts_of
from tiny import shared_lm

from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit, FrozenLM
from consistency_lens.text.starting import foresight
from consistency_lens.text.starting.evidence import LEAST_CHANGE, room_of
from consistency_lens.text.starting.foresight import Foresight, foreseen, row_number
from consistency_lens.text.starting.source import require_evidence
from consistency_lens.text.starting.texts import StartingTexts

LENGTH = 8
FAR = Foresight(tokens=6, samples=2)


def batch_of(contexts: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    ids = torch.nn.utils.rnn.pad_sequence(contexts, True, 0, padding_side="left")
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def worth_of(lm: FrozenLM, context: torch.Tensor, number: int, far: Foresight) -> list[float]:
    """Written out: for each column how the log-probability of what was drawn changes with a small step of that
    column's embedding, to the mean of its context and away from it."""
    little, found = 1e-2, [0.0] * len(context)
    for seed in range(far.samples):
        alone = {"input_ids": context[None], "attention_mask": torch.ones(1, len(context), dtype=torch.long)}
        said = lm.generate(alone, rows=[number], max_new_tokens=far.tokens, do_sample=True, seed=seed)
        ids = torch.cat([context, said.ids[0][said.mask[0].bool()].cpu()])[None]
        clean = lm.read({"input_ids": ids}, "embed")["embed"]
        mean, p = clean[0, : len(context)].mean(0), len(context) - 1
        for column in range(len(context)):
            sides = []
            for step in (little, -little):
                moved = clean.clone()
                moved[0, column] += step * (mean - moved[0, column])
                logits = lm.logits({"input_ids": ids}, Edit("embed", moved, positions=None))[0, p:-1]
                sides.append(float(logits.log_softmax(-1).gather(1, ids[0, p + 1 :, None]).sum()))
            found[column] += abs(sides[0] - sides[1]) / (2 * little) / far.samples
    return found


@torch.no_grad()
@pytest.mark.parametrize("case", ["llama", "gpt2", "mistral-window"])
def test_a_word_is_worth_what_a_step_away_from_it_costs(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In models whose attention has a window, too, from which no word could be hidden."""
    lm, contexts = shared_lm(case), contexts_of()[:4]
    monkeypatch.setattr(foresight, "GENERATED", 70)  # three rows are generated at once,
    monkeypatch.setattr(foresight, "GRAPH", 1)  # and each has a pass with gradient of its own
    found = FAR.worth(batch_of(contexts), lm)
    assert found.shape == (4, 17)
    for row, context in enumerate(contexts):
        own = worth_of(lm, context, foresight.row_number(context), FAR)
        assert max(own) > 0.1
        assert found[row, -len(context) :].tolist() == pytest.approx(own, rel=0.03, abs=2e-3)
        assert not found[row, : -len(context)].any()


@torch.no_grad()
def test_rows_do_not_hang_on_what_they_run_with() -> None:
    lm, contexts = shared_lm("llama"), contexts_of()
    config = config_of(lm)
    together = foreseen(contexts, config, lm, FAR)
    assert sum(map(len, together.worth)) > 4
    for row, context in enumerate(contexts):
        alone = foreseen([context], config, lm, FAR)
        assert alone.words.ids[0].tolist() == together.words.ids[row].tolist()
        assert alone.quoted[0] == together.quoted[row]


@torch.no_grad()
def test_a_text_is_what_is_needed_later_then_p_then_what_comes_next() -> None:
    lm, contexts = shared_lm("llama"), contexts_of()
    config = config_of(lm)
    most, ahead = room_of(LENGTH, 0.5)
    found = foreseen(contexts, config, lm, FAR, share=0.5)
    every = FAR.worth(batch_of(contexts), lm)
    for row, context in enumerate(contexts):
        said = lm.prefix({"input_ids": context[None]}).continue_greedily(ahead)[0][0].tolist()
        end = next((i for i, token in enumerate(said) if token < 4), len(said))
        quoted = [*(token for token, _ in found.worth[row]), int(context[-1])]
        text = found.words.ids[row][: int(found.words.lengths[row])].tolist()
        assert text == [*quoted, *said[:end]] and int(found.quoted[row]) == len(quoted)
        weights: dict[int, float] = {}
        for token, nats in zip(context[:-1].tolist(), every[row, -len(context) : -1].tolist(), strict=True):
            weights[token] = weights.get(token, 0.0) + nats
        others = {token: nats for token, nats in weights.items() if token not in {int(context[-1]), *said[:end]}}
        best = sorted(others.items(), key=lambda pair: -pair[1])[:most]
        assert dict(found.worth[row]) == pytest.approx({t: n for t, n in best if n >= LEAST_CHANGE}, rel=1e-4)
        places = [context.tolist().index(token) for token, _ in found.worth[row]]
        assert places == sorted(places), "in the order of the context"


def test_texts_of_any_length_and_of_contexts_without_evidence() -> None:
    lm = shared_lm("llama")
    for length in (1, 2, 8):
        found = StartingTexts.of("evidence", batch_of(contexts_of()), config_of(lm, length), lm, foresight=4)
        assert bool((found.words.lengths > 0).all()) and found.words.ids.shape == (6, length)
        assert bool((found.tail <= found.words.lengths).all())
    alone = foreseen([torch.tensor([7])], config_of(lm), lm, FAR)
    assert alone.worth == [[]] and alone.words.ids[0, 0] == 7


def test_a_training_starts_from_it(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, warm_start="evidence", max_steps=12, warm_steps=12, warm_foresight=4)
    trainer.train()
    assert len(trainer.texts._prepared or []) == len(tiny_rows().splits["train"])
    assert trainer.texts._recipe()["foresight"] == {"tokens": 4, "samples": 4}


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="warm_start=onward") as caught:
        arguments(tmp_path, warm_foresight=8)
    assert caught.value.field == "warm_foresight"
    with pytest.raises(BadInput, match="how many tokens"):
        arguments(tmp_path, warm_start="evidence", warm_foresight=-1)
    with pytest.raises(BadInput, match="samples"):
        Foresight(4, samples=0)
    lm = shared_lm("llama")
    with pytest.raises(BadInput, match=f"Use at most {lm.max_length - 17}") as caught:
        foreseen(contexts_of(), config_of(lm), lm, Foresight(lm.max_length))
    assert caught.value.field == "warm_foresight" and caught.value.value == lm.max_length


def test_what_a_training_could_not_make_is_refused_before_it_begins(tmp_path: Path) -> None:
    far = {"warm_start": "evidence", "max_steps": 40, "warm_steps": 40}
    trainer = trainer_of(tmp_path, **far, warm_foresight=120)
    with pytest.raises(BadInput, match="a context has"):
        trainer.train()
    with pytest.raises(BadInput, match="no room for evidence") as caught:
        trainer_of(tmp_path, **far, warm_foresight=4, warm_evidence=0.0)
    assert caught.value.field == "warm_foresight"
    with pytest.raises(BadInput, match="ddp or zero2") as caught:
        require_evidence({**far, "warm_foresight": 4, "warm_evidence": 0.5, "code_length": 8}, spread=True)
    assert caught.value.field == "warm_start"
    require_evidence({"warm_start": "onward", "warm_steps": 40}, spread=True)


@torch.no_grad()
def test_a_sample_that_ends_early_and_ids_of_another_type_change_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, contexts = shared_lm("llama"), contexts_of()
    first = lm.generate(batch_of(contexts), rows=[row_number(c) for c in contexts], max_new_tokens=6, do_sample=True)
    ending = {int(i) for i in first.ids[:, 2]}  # tokens that end some rows early, and not others
    monkeypatch.setattr("consistency_lens.frozen.generation.generating.stop_ids_of", lambda _: sorted(ending))
    batch, numbers = batch_of(contexts), [row_number(context) for context in contexts]
    lengths = lm.generate(batch, rows=numbers, max_new_tokens=6, do_sample=True).mask.sum(1)
    assert bool((lengths <= 3).any()), "some do end early"
    together = FAR.worth(batch, lm)
    for row, context in enumerate(contexts):
        alone = FAR.worth(batch_of([context]), lm)[0]
        assert torch.allclose(together[row, -len(context) :], alone, atol=1e-5)
    narrow = FAR.worth({name: each.int() for name, each in batch.items()}, lm)
    assert torch.allclose(narrow, together, atol=1e-6)
