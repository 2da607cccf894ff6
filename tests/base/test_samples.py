"""The table of samples: the same rows each time, one file, and what stands in it is what the frozen model says."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from lens_runs import SITE, stirred, tiny_lens, trainer_of
from rich.console import Console
from tiny import padded_batch, shared_lm, tiny_lm, tiny_tokenizer

from consistency_lens.base.comparing.rows import marked, rows_for_people
from consistency_lens.base.watching.samples import FILE, append_rows, drawn, plain, spread
from consistency_lens.frozen import Edit

ROWS = 8


def table(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / FILE).to_pylist()


@pytest.mark.parametrize("case", ["llama", "gpt2", "gemma3-window", "qwen2-window"])
@pytest.mark.parametrize("mode", ["replace", "add"])
def test_a_continuation_behind_an_edit_is_that_of_the_whole_sequence(case: str, mode: str) -> None:
    """Token by token, against whole passes in which the edit is made at P."""
    frozen, batch = shared_lm(case), padded_batch()
    value = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)) * 3
    edit = Edit(SITE, value, mode=mode)
    prefix = frozen.prefix(batch)
    untouched = prefix.continue_greedily(6)[0]
    ids, sure = prefix.continue_greedily(6, edit)
    assert not torch.equal(ids, untouched)
    longer, last = dict(batch), batch["input_ids"].shape[1] - 1
    for t in range(6):
        logits = frozen.logits(longer, Edit(SITE, value, last, mode), keep=1)[:, 0]
        assert torch.equal(logits.argmax(-1), ids[:, t])
        torch.testing.assert_close(logits.softmax(-1).max(-1).values, sure[:, t], rtol=1e-4, atol=1e-5)
        longer["input_ids"] = torch.cat([longer["input_ids"], ids[:, t : t + 1]], 1)
        longer["attention_mask"] = torch.nn.functional.pad(longer["attention_mask"], (0, 1), value=1)
    assert torch.equal(prefix.continue_greedily(6)[0], untouched)


def test_restoring_the_activation_itself_changes_nothing(lm: Any) -> None:
    prefix = lm.prefix(padded_batch())
    itself = Edit(SITE, prefix.read(SITE)[SITE])
    for one, other in zip(prefix.continue_greedily(6), prefix.continue_greedily(6, itself), strict=True):
        assert torch.equal(one, other)


def test_rows_say_what_the_subject_says(tmp_path: Path) -> None:
    frozen = tiny_lm()
    lens = stirred(tiny_lens(frozen))
    trainer = trainer_of(tmp_path, frozen, lens)
    (batch,) = trainer.batches(ROWS)
    rows = rows_for_people(lens, frozen, [batch], 7)
    assert len(rows) == ROWS and {row["step"] for row in rows} == {7}
    code = lens.compress(batch)
    (edit,) = lens.restore(code, batch)
    clean, edited = frozen.logits(batch, keep=1)[:, 0], frozen.logits(batch, edit, keep=1)[:, 0]
    for i, row in enumerate(rows):
        ids = batch["input_ids"][i][batch["attention_mask"][i].bool()].tolist()
        assert (row["row"], row["doc_id"], row["position"]) == (i, batch["doc_id"][i], batch["position"][i])
        assert len(ids) == row["position"] + 1
        words = frozen.tokenizer.convert_ids_to_tokens(ids)[1:]
        assert row["context"] == " ".join([*words[:-1], f"⟦{words[-1]}⟧"])
        assert row["explanation"] == lens.explain(code.take(torch.tensor([i])))[0]["explanation"]
        for side, logits in (("before", clean[i]), ("after", edited[i])):
            chances, best = logits.softmax(-1).topk(5)
            assert [token for token, _ in row[side]] == [frozen.tokenizer.decode(b) for b in best]
            assert [chance for _, chance in row[side]] == pytest.approx(chances.tolist(), abs=1e-5)
        p, q = clean[i].log_softmax(-1), edited[i].log_softmax(-1)
        assert row["kl"] == pytest.approx(float((p.exp() * (p - q)).sum()), abs=1e-4)
        assert row["cosine"] == pytest.approx(
            float(torch.cosine_similarity(edit.value[i], batch["activations"][SITE][i].float(), 0)), abs=1e-5
        )
        assert row["continuation_before"].split()[0] == row["before"][0][0]
        assert row["continuation_after"].split()[0] == row["after"][0][0]
    assert any(row["continuation_before"] != row["continuation_after"] for row in rows)


def test_no_room_for_a_whole_continuation(tmp_path: Path) -> None:
    """At the end of what the frozen model can read, a sample says what still fits."""
    frozen = tiny_lm()
    batch = padded_batch((126, 120))
    batch |= {"doc_id": torch.arange(2), "position": torch.tensor([125, 119])}
    batch["activations"] = frozen.prefix(batch).read(SITE)
    rows = rows_for_people(tiny_lens(frozen), frozen, [batch], 0)
    assert [len(row["continuation_after"].split()) for row in rows] == [3, 3]


@pytest.mark.parametrize("last", [5, 1])
def test_the_analysed_token_is_marked(last: int) -> None:
    shown = marked(tiny_tokenizer(), [1, 7, 8, last])
    assert shown == ("w3 w4 ⟦w1⟧" if last == 5 else "w3 w4⟦<bos>⟧")
    assert marked(tiny_tokenizer(), [7]) == "⟦w3⟧"


@pytest.mark.parametrize(
    ("changes", "steps"), [({"sample_steps": 2}, [2, 4]), ({"eval_strategy": "steps", "eval_steps": 3}, [3, 4])]
)
def test_every_so_many_steps_or_with_each_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], steps: list[int]
) -> None:
    trainer = trainer_of(tmp_path, **changes)
    trainer.train()
    rows = table(tmp_path)
    assert [row["step"] for row in rows] == [step for step in steps for _ in range(ROWS)]
    for step in steps:
        own = [(row["doc_id"], row["position"], row["context"]) for row in rows if row["step"] == step]
        assert own == [(row["doc_id"], row["position"], row["context"]) for row in rows[:ROWS]]
    held_out = set(trainer.activations.splits["validation"]["doc_id"])
    assert {row["doc_id"] for row in rows} <= held_out
    assert capsys.readouterr().out.count("of 8 held-out activations") == len(steps)
    assert trainer.lens.training


def test_a_second_attempt_leaves_no_duplicates(tmp_path: Path) -> None:
    path = tmp_path / "run" / FILE
    for step in (3, 6, 9, 6, 9):
        append_rows(path, [{"step": step, "row": i, "explanation": "w1"} for i in range(2)], step)
        assert not list(path.parent.glob("*.part"))
    assert [row["step"] for row in table(path.parent)] == [3, 3, 6, 6, 9, 9]
    # A family that begins to say more does not lose what was there.
    append_rows(path, [{"step": 12, "row": 0, "explanation": "w1", "more": 1.0}], 12)
    assert [row["more"] for row in table(path.parent)] == [None] * 6 + [1.0]


def row_of(kl: float) -> dict[str, Any]:
    likely = [(f"w{i}", 0.5 / (i + 1)) for i in range(5)]
    said = {"continuation_before": "w1 w2", "continuation_after": "w3 w4", "explanation": "[red]no markup"}
    return {"kl": kl, "context": "w " * 80 + "⟦w9⟧", "before": likely, "after": likely, "cosine": 0.5} | said


def test_the_console_shows_the_best_the_worst_and_what_lies_between() -> None:
    rows = [row_of(kl) for kl in (5.0, 1.0, 3.0, 0.0, 2.0, 4.0, 9.0)]
    assert [row["kl"] for row in spread(rows)] == [0.0, 2.0, 4.0, 9.0]
    assert [row["kl"] for row in spread(rows[:2])] == [1.0, 5.0]
    for width in (80, 160):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(drawn(rows, 300))
        said = console.export_text()
        assert "step 300: 4 of 7" in said and "9.000" in said and "[red]no" in said
        assert max(map(len, said.splitlines())) <= width


def test_trackers_get_text_and_numbers_alone() -> None:
    shown = plain(row_of(1.0))
    assert shown["before"].startswith("w0 0.50, w1 0.25") and shown["kl"] == 1.0
    assert all(isinstance(cell, (str, float, int)) for cell in shown.values())
