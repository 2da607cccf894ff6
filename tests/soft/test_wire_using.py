"""A wire in use: what is compressed and asked one by one is what a batch of the data gives."""

from __future__ import annotations

import pytest
import torch
from wire_runs import NAMES, rows_of, wire_lens, wire_models, wire_passages

from consistency_lens.activations.passages import context_of
from consistency_lens.errors import BadInput
from consistency_lens.soft.bytes.wire import Wire
from consistency_lens.soft.using import answer, compress_texts


def test_it_answers_from_bytes_as_from_a_batch() -> None:
    lens, rows = wire_lens(slots=3), wire_passages().splits["train"]
    chosen = [rows[i] for i in range(4)]
    batch = wire_passages().collator(wire_models())(chosen)
    code = compress_texts(lens, [row["passage"] for row in chosen])
    assert torch.equal(code.vectors, lens.compress(batch).vectors)
    sent = [wire.to_bytes() for wire in lens.wire(code)]
    arrived = lens.from_wire([Wire.from_bytes(each) for each in sent])
    for name in NAMES:
        model = wire_models()[name]
        edit = lens.soft_tokens(code, batch, name)
        wanted = model.generate(context_of(batch["tokens"][name]), edit, max_new_tokens=3).texts(model.tokenizer)
        assert answer(lens, arrived, [row["prompt"] for row in chosen], name, max_new_tokens=3) == wanted


def test_the_rate_is_chosen_at_use() -> None:
    texts = [row["passage"] for row in rows_of(5)]
    assert compress_texts(wire_lens(ratio=1.0), texts, 3.0).counts == [1, 2, 2, 2, 3]


def test_what_cannot_be_asked_is_refused() -> None:
    lens = wire_lens(slots=2)
    code = compress_texts(lens, ["w1 w2", "w3"])
    with pytest.raises(BadInput, match="prompts"):
        answer(lens, code, ["w1"], "words")
    with pytest.raises(BadInput, match="nobody"):
        answer(lens, code, ["w1", "w2"], "nobody")
    with pytest.raises(BadInput, match="texts"):
        compress_texts(lens, [])
    lens.models = None
    with pytest.raises(BadInput, match="subject"):
        compress_texts(lens, ["w1"])
