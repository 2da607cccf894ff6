"""A text, token by token, against whole-sequence passes with the restored activation in place."""

from __future__ import annotations

import pytest
import torch
from lens_runs import tiny_lens
from tiny import tiny_lm

from consistency_lens.base.explaining import ROWS, explain_text
from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit
from consistency_lens.objectives import kl_of


def test_each_row_is_the_swap_at_its_token() -> None:
    lens = tiny_lens(tiny_lm())
    frozen, (site,) = lens.subject, lens.config.sites
    text = " ".join(f"w{i}" for i in range(1, ROWS + 8))  # more than one batch of rows
    ids = frozen.tokenizer(text, return_tensors="pt")["input_ids"]
    rows = explain_text(lens, text)
    assert [row["position"] for row in rows] == list(range(1, ids.shape[1]))
    read, clean = frozen.read({"input_ids": ids}, site)[site][0], frozen.logits({"input_ids": ids})[0]
    for row in (rows[0], rows[5], rows[-1]):
        p = row["position"]
        batch = {"activations": {site: read[p : p + 1]}}
        code = lens.compress(batch)
        (edit,) = lens.restore(code, batch)
        edited = frozen.logits({"input_ids": ids}, Edit(site, edit.value, p))[0, p]
        assert row["explanation"] == lens.explain(code)[0]["explanation"]
        assert row["token"] == f"w{p}"
        assert row["kl"] == pytest.approx(float(kl_of(clean[None, p], edited[None])), rel=1e-3, abs=1e-5)
        for logits, said in ((clean[p], row["before"]), (edited, row["after"])):
            best = logits.topk(5).indices.tolist()
            assert [token for token, _ in said] == [frozen.tokenizer.decode(i) for i in best]
            assert [p for _, p in said] == pytest.approx(logits.softmax(-1).topk(5).values.tolist(), rel=1e-3)


def test_positions_count_from_either_end() -> None:
    lens = tiny_lens(tiny_lm())
    assert [row["position"] for row in lens.explain("w1 w2 w3 w4", positions=[-1, 2, 2])] == [4, 2, 2]
    assert lens.explain("w1 w2", positions=[]) == []
    for bad in ([5], [-6]):
        with pytest.raises(BadInput, match="The text has 5 tokens"):
            lens.explain("w1 w2 w3 w4", positions=bad)
    with pytest.raises(BadInput, match="at least one word"):
        lens.explain("")
    with pytest.raises(BadInput, match="at most 128"):
        lens.explain("w1 " * 200)


def test_without_a_subject_only_codes_are_explained() -> None:
    lens = tiny_lens(tiny_lm())
    code = lens.compress({"activations": {lens.config.sites[0]: torch.randn(2, lens.config.hidden_size)}})
    lens.subject = None
    assert len(lens.explain(code)) == 2
    with pytest.raises(BadInput, match="subject="):
        lens.explain("w1 w2")
