"""Questions behind P: against whole passes, row by row; and what is not asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from fake_lenses import SITE, VectorLens
from lens_runs import tiny_rows
from tiny import shared_lm

from consistency_lens.evaluation import HeldOut, evaluate
from consistency_lens.frozen import Edit
from consistency_lens.text.report import TextReport
from consistency_lens.text.sceptic.questions import Question


class Ask:
    """Asks every second row one of two questions, of which each row knows its own answer or not."""

    columns: Sequence[str] = ("input_ids", "attention_mask")

    def __init__(self) -> None:
        self.rows: list[tuple[list[int], Question]] = []

    def questions(self, rows: Mapping[str, Sequence[Any]], seed: int) -> list[Question | None]:
        lm, found = shared_lm("llama"), []
        for number, (ids, mask) in enumerate(zip(rows["input_ids"], rows["attention_mask"], strict=True)):
            text = ["w7 w8 w9", "w20"][number % 4 // 2]
            own = ids[mask.bool()].tolist()
            best = int(
                lm.logits({"input_ids": torch.tensor([own + lm.tokenizer(text)["input_ids"][1:]])})[0, -1].argmax()
            )
            answer = lm.tokenizer.decode([best]) if number % 3 else "w1"
            found.append(None if number % 2 else Question(text, answer))
            if found[-1] is not None and number % 3:
                self.rows.append((own, Question(text, answer)))
        return found


@torch.no_grad()
def test_it_is_the_kl_at_the_end_of_the_question() -> None:
    rows, lm, ask = tiny_rows(), shared_lm("llama"), Ask()
    lens = VectorLens(lm, rows.mean(SITE), 0.5)
    report = evaluate(lens, lm, rows, TextReport(questions=ask), HeldOut(horizon=2, batch_size=12), progress=False)
    stored = {tuple(row["input_ids"]): torch.tensor(row[SITE]) for row in rows.splits["test"]}
    kls = []
    for own, question in ask.rows:
        ids = own + lm.tokenizer(question.text)["input_ids"][1:]
        batch = {"input_ids": torch.tensor([ids])}
        vector = (0.5 * stored[tuple(own)] + 0.5 * rows.mean(SITE)).unsqueeze(0)
        clean, edited = (
            lm.logits(batch, edits)[0, -1].log_softmax(-1) for edits in ([], [Edit(SITE, vector, len(own) - 1)])
        )
        kls.append(float((clean.exp() * (clean - edited)).sum()))
    assert len(kls) > 4
    assert report.number("kl_asked").value == pytest.approx(sum(kls) / len(kls), rel=1e-3, abs=1e-5)
    mean = report.number("kl_asked", "mean").value
    assert report.number("kl_asked_recovered").value == pytest.approx(1 - report.number("kl_asked").value / mean)
    assert 0 <= report.number("asked_recall").value <= 1 and "kl_asked" in report.parts["all"].numbers["table"]
    assert "kl_asked" not in report.parts["all"].numbers["resample"] and "kl_asked" in report.definitions


def test_without_a_world_nothing_is_asked() -> None:
    rows, lm = tiny_rows(), shared_lm("llama")
    report = evaluate(VectorLens(lm, rows.mean(SITE)), lm, rows, TextReport(), HeldOut(horizon=1), progress=False)
    assert "kl_asked" not in report.parts["all"].numbers["lens"]
