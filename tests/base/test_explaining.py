"""A text, token by token, against whole-sequence passes with the restored activation in place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lens_runs import stirred, tiny_lens
from tiny import tiny_lm

from consistency_lens.base.explaining import ROWS
from consistency_lens.base.explanations import Explanations
from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit
from consistency_lens.objectives import kl_of


def test_each_row_is_the_swap_at_its_token() -> None:
    lens = tiny_lens(tiny_lm())
    frozen, (site,) = lens.subject, lens.config.sites
    text = " ".join(f"w{i}" for i in range(1, ROWS + 8))  # more than one batch of rows
    ids = frozen.tokenizer(text, return_tensors="pt")["input_ids"]
    rows = lens.explain(text)
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


TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['content'] }} {% endfor %}"


def agree(found: list[Explanations], expected: list[Explanations]) -> bool:
    """Words, tokens and the order of predictions are equal; numbers are, as sums in another order can be."""
    for rows, others in zip(found, expected, strict=True):
        assert rows.tokens == others.tokens
        for row, other in zip(rows, others, strict=True):
            assert row.keys() == other.keys()
            for name, value in row.items():
                match value:
                    case float():
                        assert value == pytest.approx(other[name], rel=1e-3, abs=1e-5), name
                    case list():
                        assert [token for token, _ in value] == [token for token, _ in other[name]], name
                        assert [p for _, p in value] == pytest.approx([p for _, p in other[name]], rel=1e-3), name
                    case _:
                        assert value == other[name], name
    return True


@pytest.mark.parametrize("case", ["llama", "gpt2", "gemma2", "mistral-window"])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_a_batch_goes_on_from_one_text_to_the_next(
    monkeypatch: pytest.MonkeyPatch, case: str, batch_size: int
) -> None:
    """As many passes as all tokens need together, and each text as if it stood alone."""
    lens = stirred(tiny_lens(tiny_lm(case)))
    texts = ["w1 w2", "w3 w4 w5 w6 w7 w8 w9", "w2 w9 w4"]
    positions: list[Any] = [None, slice(-3, None), [0, 3, 1]]
    alone = [lens.explain(text, own) for text, own in zip(texts, positions, strict=True)]
    sizes: list[int] = []
    compress = type(lens).compress

    def counting(self: Any, batch: Any, seed: int | None = None) -> Any:
        sizes.append(len(batch["input_ids"]))
        return compress(self, batch, seed)

    monkeypatch.setattr(type(lens), "compress", counting)
    together = lens.explain_each(texts, positions, batch_size=batch_size)
    rows = sum(map(len, alone))
    assert sum(sizes) == rows == 8 and len(sizes) == -(-rows // batch_size) and max(sizes) <= batch_size
    assert agree(together, alone)


def test_a_list_with_a_text_that_is_none_says_which() -> None:
    lens = tiny_lens(tiny_lm())
    with pytest.raises(BadInput, match="at least one word"):
        lens.explain(["w1 w2", ""])
    with pytest.raises(BadInput, match="The text has 3 tokens"):
        lens.explain(["w1 w2 w3", "w4 w5"], positions=3)
    assert lens.explain(["w1 w2", "w3 w4"], positions=[]) == [[], []]


def test_a_list_gives_a_list_and_every_form_the_same_rows() -> None:
    lens = tiny_lens(tiny_lm())
    frozen = lens.subject
    texts = ["w1 w2 w3", "w4 w5 w6 w7"]
    alone = [lens.explain(text) for text in texts]
    together = lens.explain(texts)
    assert agree(together, alone) and lens.explain(texts[:1]) == alone[:1]
    ids = [frozen.tokenizer(text)["input_ids"] for text in texts]
    assert lens.explain(ids[0]) == alone[0] and lens.explain(torch.tensor(ids[0])) == alone[0]
    assert lens.explain(ids) == together
    frozen.tokenizer.pad_token = frozen.tokenizer.pad_token or frozen.tokenizer.eos_token
    for side in ("left", "right"):
        padded = frozen.tokenizer(texts, return_tensors="pt", padding=True, padding_side=side)
        for rows, expected in zip(lens.explain(padded), alone, strict=True):
            assert [row["explanation"] for row in rows] == [row["explanation"] for row in expected]
            assert [row["kl"] for row in rows] == pytest.approx([row["kl"] for row in expected], abs=1e-5)


def test_a_chat_goes_through_the_template_and_has_one_bos() -> None:
    lens = tiny_lens(tiny_lm())
    chat = [{"role": "user", "content": "w1 w2"}, {"role": "assistant", "content": "w3"}]
    lens.subject.tokenizer.chat_template = None
    with pytest.raises(BadInput, match="no chat template"):
        lens.explain(chat)
    lens.subject.tokenizer.chat_template = TEMPLATE
    try:
        rows = lens.explain(chat)
        assert rows == lens.explain("w1 w2 w3") and rows.tokens[0] != rows.tokens[1]
        assert agree(lens.explain([chat, chat]), [rows, rows])
    finally:
        lens.subject.tokenizer.chat_template = None


def test_positions_and_passes_are_chosen() -> None:
    lens = tiny_lens(tiny_lm())
    text = "w1 w2 w3 w4 w5 w6"
    every = lens.explain(text)
    assert lens.explain(text, positions=slice(-3, None)) == lens.explain(text, positions=[4, 5, 6])
    assert lens.explain(text, positions=-1) == lens.explain(text, positions=[6])
    few = lens.explain(text, batch_size=2, top=2)
    assert [row["explanation"] for row in few] == [row["explanation"] for row in every]
    assert all(len(row["before"]) == len(row["after"]) == 2 for row in few)
    with pytest.raises(BadInput, match="batch_size"):
        lens.explain(text, batch_size=0)


@pytest.mark.parametrize("bad", [[], 3, [1, "w1"], [[0.5]], {"ids": [1]}, [10**6], torch.rand(3), {"role": "user"}])
def test_what_is_no_text_is_refused(bad: object) -> None:
    with pytest.raises(BadInput, match=r"^text="):
        tiny_lens(tiny_lm()).explain(bad)


def test_rows_are_a_frame_and_a_picture() -> None:
    lens = tiny_lens(tiny_lm())
    rows = lens.explain("w1 w2 w3")
    frame = rows.to_pandas()
    assert list(frame["token"]) == ["w1", "w2", "w3"] and list(frame.columns) == list(rows[0])
    rows[0]["explanation"] = "<b>bold</b>"
    shown = rows._repr_html_()
    assert "&lt;b&gt;bold" in shown and "<b>" not in shown and shown.count("<tr>") == 4 and shown.count("KL ") == 3


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_what_the_model_writes_is_explained(temperature: float) -> None:
    """As a text that it had written before; only new tokens, unless positions are named."""
    lens = tiny_lens(tiny_lm())
    frozen, texts = lens.subject, ["w1 w2 w3", "w4 w5"]
    settings = {"do_sample": True, "temperature": temperature} if temperature else {}
    found = lens.explain(texts, generate=4, temperature=temperature)
    for row, (text, explained) in enumerate(zip(texts, found, strict=True)):
        ids = frozen.tokenizer(text, return_tensors="pt")
        made = frozen.generate(ids, max_new_tokens=4, rows=[row], **settings)
        new = made.ids[0, : int(made.mask.sum()) - int(made.ended)]
        assert len(explained.tokens) == ids["input_ids"].shape[1] + len(new)
        whole = torch.cat([ids["input_ids"][0], new])
        assert agree([explained], [lens.explain(whole, slice(ids["input_ids"].shape[1], None))])
    first, last = lens.explain(texts[0], [0, -1], generate=1)
    assert first["position"] == 0 and last["position"] == len(frozen.tokenizer(texts[0])["input_ids"])
    with pytest.raises(BadInput, match="temperature"):
        lens.explain(texts[0], generate=True, temperature=-1.0)
    with pytest.raises(BadInput, match="max_new_tokens"):
        lens.explain(texts[0], generate=0)
