"""What a clock says of the first token of an answer: what is timed, of which rows, and where the report shows it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from wire_runs import NAMES, batch_of, text_batch, wire_lens, wire_models, wire_passages

from consistency_lens.activations.passages import context_of
from consistency_lens.errors import BadInput
from consistency_lens.evaluation import HeldOut, Report, evaluate
from consistency_lens.frozen import FrozenLM
from consistency_lens.soft.report import timing
from consistency_lens.soft.report.timing import ROUNDS, Stopwatch, alone, first_tokens, machine_of, seconds_of
from consistency_lens.soft.report.wire_report import WireReport

CPU = torch.device("cpu")


def report_of(timed_rows: int, **settings: Any) -> Report:
    held_out, of_family = HeldOut("test", batch_size=4, horizon=0), WireReport(0, (), 0, timed_rows)
    return evaluate(
        wire_lens(ratio=2.0, **settings), wire_models(), wire_passages(), of_family, held_out, progress=False
    )


def seen_of(batch: Any) -> Any:
    """What a stopwatch asks of a batch that was seen."""
    return SimpleNamespace(lens=wire_lens(ratio=2.0), models=wire_models(), batch=batch)


def without_clocks(report: Report) -> dict[str, Any]:
    found = report.to_dict()
    found["data"].pop("seconds")
    for numbers in found["judged"].values():
        for name in [name for name in numbers if "seconds" in name]:
            numbers.pop(name)
    found["remarks"] = [remark for remark in found["remarks"] if not remark.startswith("Measured by a clock")]
    return found


def test_the_report_has_the_seconds_of_each_receiver(tmp_path: Path) -> None:
    report = report_of(3)
    for name in NAMES:
        text, code = (report.judged[each][f"seconds/{name}"] for each in ("text", "lens"))
        assert 0 < text.low <= text.value <= text.high and 0 < code.low <= code.value <= code.high < 60
        assert report.judged["lens"][f"seconds_ratio/{name}"].value > 0
        assert f"seconds/{name}" in report.definitions and f"seconds_ratio/{name}" in report.definitions
    assert report.judged["lens"]["compressing_seconds"].value > 0
    assert not any("seconds" in name for name in report.traits), "traits are a function of the seed"
    (said,) = [remark for remark in report.remarks if remark.startswith("Measured by a clock")]
    assert machine_of(CPU) in said and "means over 3 of the rows" in said and all(name in said for name in NAMES)
    report.save(tmp_path)
    shown = (tmp_path / "report.md").read_text()
    assert said in shown and "seconds_ratio" in shown.replace("\\", "")
    assert Report.load(tmp_path).to_dict() == report.to_dict()


def test_all_else_is_the_same_with_and_without_a_clock() -> None:
    timed, plain = report_of(3), report_of(0)
    assert without_clocks(timed) == without_clocks(plain)
    assert not any("seconds" in name for numbers in plain.judged.values() for name in numbers)
    assert not any(remark.startswith("Measured by a clock") for remark in plain.remarks)


@pytest.mark.parametrize(("asked", "expected"), [(5, [4, 1, 0]), (50, [4, 4, 2]), (0, [])])
def test_the_first_rows_are_timed_batch_after_batch(asked: int, expected: list[int]) -> None:
    """Every row has a place; those that are not timed are NaN, which does not count."""
    watch, found = Stopwatch(asked), []
    watch.begin(CPU)
    for batch in (batch_of(4), batch_of(4), batch_of(2)):
        of_codes = watch.timed(seen_of(batch))
        for name in NAMES if asked else ():
            for code in ("text", "lens"):
                known = of_codes[code][f"seconds/{name}"].isfinite().tolist()
                assert known == of_codes["lens"]["compressing_seconds"].isfinite().tolist() == sorted(known)[::-1]
                assert len(known) == len(batch["task"])
        found += [sum(known)] if of_codes else []
    assert found == expected


def test_a_row_alone_is_what_it_is_in_a_batch_of_its_own() -> None:
    lens, batch = wire_lens(ratio=2.0, modes=["answer"]), batch_of(5)
    for row in range(5):
        found, expected = alone(batch, row), text_batch(lens, batch["passage"][row])
        assert found["passage"] == expected["passage"]
        for name in NAMES:
            ours, theirs = found["tokens"][name], expected["tokens"][name]
            assert torch.equal(ours["passage_ids"], theirs["passage_ids"]) and bool(ours["passage_mask"].all())
            assert ours["front"] == theirs["front"] and ours["bos"] == theirs["bos"]
            for kind in ("full", "bare"):
                context = context_of(theirs, kind)
                assert torch.equal(ours[kind]["input_ids"], context["input_ids"])
                assert bool(ours[kind]["attention_mask"].all())
        code, whole = lens.compress(found), lens.compress(batch)
        count = code.counts[0]
        assert count == whole.counts[row] == code.vectors.shape[1]
        torch.testing.assert_close(code.vectors[0], whole.vectors[row, :count], rtol=1e-4, atol=1e-5)


def test_what_is_timed_writes_one_token_behind_the_text_and_behind_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns that the receiver reads: the text and the prompt, or the prompt and soft tokens, in turn."""
    seen, made = seen_of(batch_of(5)), []
    real, passage = FrozenLM.generate, int(seen.batch["tokens"]["words"]["passage_mask"][4].sum())

    def generate(self: Any, context: Any, edits: Any = (), **settings: Any) -> Any:
        made.append((context["input_ids"].shape[1], int(edits.mask.sum()) if edits else 0, settings))
        return real(self, context, edits, **settings)

    monkeypatch.setattr(FrozenLM, "generate", generate)
    assert first_tokens(seen, alone(seen.batch, 4), "words").keys() == {"text", "lens"}
    text, code = made[:2]
    assert made == [text, code] * (1 + ROUNDS), "they take turns"
    assert text[0] - code[0] == passage and (text[1], code[1]) == (0, -(-passage // 2))
    assert text[2] == code[2] == {"max_new_tokens": 1}


def test_the_median_of_the_rounds_that_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that the ways themselves put forward: the first round is a warm-up."""
    now, steps = [0.0], {"a": iter([60.0, 1.0, 9.0, 2.0]), "b": iter([60.0, 0.5, 0.25, 30.0])}
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def act(name: str) -> None:
        now[0] += next(steps[name])

    assert seconds_of({"a": lambda: act("a"), "b": lambda: act("b")}, CPU) == {"a": 2.0, "b": 0.5}


def test_fewer_rows_than_none_are_refused() -> None:
    with pytest.raises(BadInput, match="timed_rows"):
        WireReport(timed_rows=-1)
