"""What the explorer shows of a wire: what it says is what the lens does, computed another way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from wire_runs import NAMES, wire_lens

from consistency_lens import BadInput, view_of
from consistency_lens.activations.passages import context_of
from consistency_lens.base.viewing import Bars, Figures, Grid, Slider, Switches
from consistency_lens.soft.code import LatentCode, sent_bytes
from consistency_lens.soft.parts.receiver import embedding_table
from consistency_lens.soft.view import ANSWERED, WireView, nearest_words, split

TEXT = "w1 w2 w3 w4 w5 w6 w7"


def view(**settings: Any) -> WireView:
    found = view_of(wire_lens(**settings))
    assert isinstance(found, WireView)
    return found


def part(parts: Any, kind: type, title: str = "") -> Any:
    return next(each for each in parts if isinstance(each, kind) and each.title == title)


def facts_of(parts: Any) -> dict[str, str]:
    return {name: value for name, value, _ in part(parts, Figures).items}


def test_a_row_is_a_vector_with_the_words_it_stands_for() -> None:
    shown = view(ratio=2.0)
    rows = shown.rows(TEXT, shown.positions(TEXT))
    assert [row["token"] for row in rows] == ["w1 w2", "w3 w4", "w5 w6", "w7"]
    assert [row["position"] for row in rows] == [1, 2, 3, 4] and all(row["kl"] >= 0 for row in rows)
    assert all(row["token"].split()[0] in row["explanation"].split() for row in rows), "windows keep their words"
    assert shown.rows(TEXT, [3])[0]["kl"] == pytest.approx(rows[2]["kl"], abs=1e-6)


def test_its_number_is_the_kl_of_leaving_it_out() -> None:
    shown = view(ratio=2.0)
    (row,) = shown.rows(TEXT, [2])
    asked, kls = shown.first_question(TEXT), []
    left = LatentCode(asked.code.vectors[:, [0, 2, 3]], asked.code.mask[:, [0, 2, 3]])
    for name, model in shown.models.items():
        context = context_of(asked.batch["tokens"][name])
        p, q = (
            model.logits(context, shown.lens.soft_tokens(code, asked.batch, name))[0, -1].log_softmax(-1)
            for code in (asked.code, left)
        )
        kls.append(float((p.exp() * (p - q)).sum().detach()))
    assert row["kl"] == pytest.approx(sum(kls) / len(kls), abs=1e-5)


def test_a_prompt_may_stand_behind_the_passage() -> None:
    shown, asked = view(ratio=2.0), f"{TEXT}\n\nw8 w9"
    assert split(asked) == (TEXT, "w8 w9") and split(TEXT) == (TEXT, "") and split("\n\nw1") == ("\n\nw1", "")
    assert shown.positions(asked) == shown.positions(TEXT)
    start = {control.name: control.start for control in shown.controls(asked, 1)}
    assert start["prompt"] == "w8 w9"
    assert facts_of(shown.changed(asked, 1, {}))["as text"] == f"{len(TEXT.encode())} B"
    assert shown.rows(asked, [2])[0]["kl"] != pytest.approx(shown.rows(TEXT, [2])[0]["kl"])


def test_a_passage_of_one_vector_can_be_left_out_whole() -> None:
    shown = view(slots=1)
    (row,) = shown.rows(TEXT, shown.positions(TEXT))
    assert row["token"] == TEXT and row["kl"] > 0


def test_the_answers_are_those_of_the_lens() -> None:
    shown = view(ratio=2.0)
    found = shown.changed(TEXT, 1, {"prompt": "w9", "task": "cloze"})
    wire = shown.lens.to_bytes(TEXT)
    rows = {name: cells for name, *cells in part(found, Grid).rows}
    assert list(rows) == list(NAMES)
    for name in NAMES:
        assert rows[name][0] == shown.lens.answer(wire, "w9", name, "cloze", max_new_tokens=ANSWERED)
        model, tokens = shown.models[name], shown._batch(TEXT, "cloze", "w9")["tokens"][name]
        for at, kind in ((1, "full"), (2, "bare")):
            made = model.generate(context_of(tokens, kind), max_new_tokens=ANSWERED)
            assert rows[name][at] == made.texts(model.tokenizer)[0].strip()
        assert part(found, Bars, f"What {name} says first").before


@pytest.mark.parametrize("bits", [16, 4])
def test_bytes_are_those_of_the_wire_beside_those_of_the_text(bits: int) -> None:
    facts = facts_of(view(ratio=2.0).changed(TEXT, 1, {"bits": str(bits)}))
    assert facts["on the wire"] == f"{sent_bytes(4, 32, bits, 32)} B" and facts["as text"] == f"{len(TEXT.encode())} B"


def test_the_rate_decides_how_many_vectors_there_are() -> None:
    shown = view(ratio=2.0)
    counts = [facts_of(shown.changed(TEXT, 1, {"ratio": ratio}))["slots"] for ratio in (1.0, 3.5)]
    assert counts == ["7", "2"]
    slider = next(c for c in shown.controls(TEXT, 1) if isinstance(c, Slider))
    assert slider.start == 2.0
    learned = view(slots=3, pooling="learned")
    assert not any(isinstance(c, Slider) for c in learned.controls(TEXT, 1))
    assert [row["token"] for row in learned.rows(TEXT, [1, 2, 3])] == ["slot 1", "slot 2", "slot 3"]


def test_slots_are_dropped_and_change_places() -> None:
    shown = view(ratio=2.0)
    assert facts_of(shown.changed(TEXT, 2, {"dropped": ["1", "4"]}))["slots"] == "2"
    switches = next(c for c in shown.controls(TEXT, 2) if isinstance(c, Switches))
    assert [value for value, _ in switches.options] == ["1", "2", "3", "4"]
    plain, moved = (part(shown.changed(TEXT, 2, given), Grid).rows for given in ({}, {"swapped": "3"}))
    assert plain != moved
    code, batch = shown.first_question(TEXT).code, shown.first_question(TEXT).batch
    swapped = LatentCode(code.vectors[:, [0, 2, 1, 3]], code.mask)
    name = NAMES[0]
    edit = shown.lens.soft_tokens(swapped, batch, name)
    made = shown.models[name].generate(context_of(batch["tokens"][name]), [edit], max_new_tokens=ANSWERED)
    assert moved[0][1] == made.texts(shown.models[name].tokenizer)[0].strip()


def test_what_cannot_be_sent_is_refused() -> None:
    shown = view(ratio=2.0)
    for given, said in [
        ({"dropped": ["1", "2", "3", "4"]}, "at least one vector"),
        ({"ratio": 7.0, "dropped": ["3"]}, "has 1 of them"),
        ({"ratio": 7.0, "swapped": "2"}, "has 1 of them"),
        ({"bits": "5"}, "16, 8, 6, 4"),
        ({"task": "admin"}, "answer"),
    ]:
        with pytest.raises(BadInput, match=said):
            shown.changed(TEXT, 1, given)
    with pytest.raises(BadInput, match="slots 1 to 4"):
        shown.near(TEXT, 5)


def test_the_nearest_words_are_those_of_the_largest_cosine() -> None:
    model = view().models[NAMES[1]]
    table = embedding_table(model)
    vectors = table[[7, 30]] + 0.01
    cosines = torch.nn.functional.normalize(vectors, dim=-1) @ torch.nn.functional.normalize(table, dim=-1).T
    expected = [[model.tokenizer.decode(i).strip() for i in row] for row in cosines.topk(3).indices.tolist()]
    assert nearest_words(model, vectors) == expected
