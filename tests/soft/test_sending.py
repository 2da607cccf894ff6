"""A text to bytes and bytes to an answer: windows, rates, identities, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from wire_runs import text_batch, wire_lens, wire_models

from consistency_lens.activations.passages import context_of
from consistency_lens.errors import BadInput
from consistency_lens.frozen import FrozenModels
from consistency_lens.soft.bytes.wire import Wire
from consistency_lens.soft.modeling import LatentWire
from consistency_lens.soft.parts.adding import with_receiver
from consistency_lens.soft.serving.answering import AnswerSettings, answers
from consistency_lens.soft.serving.identity import identity_of
from consistency_lens.soft.serving.sending import wires_of_text
from consistency_lens.soft.serving.wire_file import joined, read_wires, split, write_wires

WORDS = " ".join(f"w{i}" for i in range(20))
LONG = " ".join(f"w{i % 60}" for i in range(50))


def counts(wires: list[Wire]) -> list[int]:
    return [wire.M for wire in wires]


def test_it_says_what_the_batch_says() -> None:
    lens = wire_lens(ratio=2.0)
    data = lens.to_bytes(WORDS)
    (wires,) = split(data)
    batch = text_batch(lens, WORDS, "w90")
    code = lens.compress(batch)
    assert torch.equal(wires[0].codes(), code.vectors[0])
    for name, model in wire_models().items():
        edit = lens.soft_tokens(code, batch, name)
        made = model.generate(context_of(batch["tokens"][name]), edit, max_new_tokens=4).texts(model.tokenizer)
        assert lens.answer(data, "w90", name, max_new_tokens=4) == made[0].strip()


def test_the_rate_is_chosen_at_use() -> None:
    lens = wire_lens(ratio=1.0, bits=8)
    assert counts(wires_of_text(lens, WORDS)) == [20]
    assert counts(wires_of_text(lens, WORDS, ratio=4.0)) == [5]
    for count in (1, 3, 7, 20):
        assert counts(wires_of_text(lens, WORDS, code_length=count)) == [count]
    assert [wires_of_text(lens, WORDS, bits=bits)[0].bits for bits in (16, 8, 6, 4)] == [16, 8, 6, 4]
    sizes = [len(lens.to_bytes(WORDS, bits=bits)) for bits in (16, 8, 6, 4)]
    assert sizes == sorted(sizes, reverse=True) and sizes[1] == len(lens.to_bytes(WORDS))


def test_a_vector_may_be_sent_by_its_first_coordinates() -> None:
    lens = wire_lens(ratio=2.0, nested=[8])
    assert [wires_of_text(lens, WORDS, size=size)[0].d_z for size in (None, 32, 8)] == [32, 32, 8]
    assert isinstance(lens.answer(lens.to_bytes(WORDS, size=8), "w90", "words", max_new_tokens=2), str)
    with pytest.raises(BadInput, match="size=4"):
        lens.to_bytes(WORDS, size=4)


def test_a_long_text_has_a_wire_for_each_window() -> None:
    lens = wire_lens(ratio=2.0)
    wires = wires_of_text(lens, LONG, window=16)  # 50 tokens: 13, 13, 12, 12
    assert counts(wires) == [7, 7, 6, 6]
    assert [wire.meta for wire in wires] == [{}, *[{"follows": True}] * 3]
    words = LONG.split()
    for wire, first, last in zip(wires, (0, 13, 26, 38), (13, 26, 38, 50), strict=True):
        alone = wires_of_text(lens, " ".join(words[first:last]))[0]
        assert torch.allclose(wire.codes(), alone.codes(), atol=1e-3)
    assert counts(wires_of_text(lens, LONG, window=16, code_length=9)) == [3, 2, 2, 2]
    assert counts(wires_of_text(wire_lens(slots=3), LONG, window=16)) == [3, 3, 3, 3]
    assert split(joined([wires])) == [wires]
    assert lens.answer(joined([wires]), "w90", "words", max_new_tokens=2) == lens.answer(
        wires, "w90", "words", max_new_tokens=2
    )


def test_texts_of_other_lengths_change_no_answer() -> None:
    for lens in (wire_lens(ratio=2.0), wire_lens(ratio=2.0, modes=["answer"])):
        texts = [wires_of_text(lens, LONG, window=16), wires_of_text(lens, "w5 w6 w7")]
        together = answers(lens, texts, ["w90", "w91"], "turned", settings=AnswerSettings(max_new_tokens=3))
        alone = [
            lens.answer(wires, question, "turned", max_new_tokens=3)
            for wires, question in zip(texts, ("w90", "w91"), strict=True)
        ]
        assert together == alone


def test_the_sender_needs_no_receiver_and_the_receiver_no_other(tmp_path: Path) -> None:
    lens = wire_lens(ratio=2.0)
    lens.save_pretrained(tmp_path)
    sender = LatentWire.from_pretrained(tmp_path)
    assert sender.models is None
    data = sender.to_bytes(WORDS)
    assert data == lens.to_bytes(WORDS)
    one = LatentWire.from_pretrained(tmp_path)
    one.models = FrozenModels([wire_models()["turned"]])
    assert one.answer(data, "w90", "turned", max_new_tokens=3) == lens.answer(data, "w90", "turned", max_new_tokens=3)
    with pytest.raises(BadInput, match="receiver='words': the model is not at hand"):
        one.answer(data, "w90", "words")


def test_a_lens_is_known_by_its_compressor(tmp_path: Path) -> None:
    lens = wire_lens(ratio=2.0)
    name = identity_of(lens.compressor)
    assert len(name) == 16 and name == identity_of(lens.compressor) == split(lens.to_bytes(WORDS))[0][0].lens
    other = wire_lens(ratio=2.0, layers=1)
    with torch.no_grad():
        lens.receiver("turned").first.weight.add_(1)
        assert identity_of(lens.compressor) == name, "an adapter changes no code"
        for parameter in (lens.compressor.down.weight, next(lens.compressor.lm.parameters())):
            parameter.view(-1)[0].add_(1e-3)
            assert identity_of(lens.compressor) != name
            name = identity_of(lens.compressor)
    with pytest.raises(BadInput, match="another lens made this code"):
        lens.answer(other.to_bytes(WORDS), "w90", "words")
    with pytest.raises(BadInput, match="vectors of 8 numbers"):
        lens.answer(Wire.of(torch.ones(2, 8), 8), "w90", "words")


def test_a_receiver_that_is_added_reads_what_is_there() -> None:
    first = LatentWire.from_models(FrozenModels([wire_models()["words"], wire_models()["turned"]]), ratio=2.0).eval()
    data = first.to_bytes(WORDS)
    late = wire_models()["turned"]
    third = type(late)(late.model, late.tokenizer, model_id="tiny-third", name="third")
    assert isinstance(with_receiver(first, third).eval().answer(data, "w90", "third", max_new_tokens=2), str)


def test_the_first_token_may_be_drawn_and_the_end_banned() -> None:
    lens = wire_lens(ratio=1.0)
    data = lens.to_bytes(WORDS)
    drawn = {
        lens.answer(data, "w90", "words", max_new_tokens=1, first_temperature=50.0, seed=seed) for seed in range(8)
    }
    assert len(drawn) > 3
    greedy = lens.answer(data, "w90", "words", max_new_tokens=6)
    for seed in range(3):  # of nothing but the likeliest
        assert lens.answer(data, "w90", "words", max_new_tokens=6, first_top_p=1e-6, seed=seed) == greedy
    settings = AnswerSettings(8, min_new_tokens=3, first_temperature=2.0, stop_at_line=True).decoding()
    assert (settings.drawn_tokens, settings.min_new_tokens, settings.stop_strings) == (1, 3, ("\n",))
    assert settings.do_sample and not AnswerSettings().decoding().do_sample


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lens, path = wire_lens(ratio=2.0), tmp_path / "a.wire"
    texts = [wires_of_text(lens, text, window=16) for text in (WORDS, LONG, "w5")]
    size = write_wires(path, texts)
    assert path.stat().st_size == size and read_wires(path) == texts
    assert [len(wires) for wires in read_wires(path)] == [2, 4, 1]
    monkeypatch.setattr(Path, "write_bytes", _fail)
    with pytest.raises(OSError, match="full"):
        write_wires(path, texts[:1])
    monkeypatch.undo()
    assert read_wires(path) == texts and [each.name for each in tmp_path.iterdir()] == ["a.wire"]


def _fail(path: Path, data: bytes) -> int:
    path.open("wb").write(data[:10])
    raise OSError("the disk is full")


@pytest.mark.parametrize("cut", ["", "middle", "between", "beginning", "more"])
def test_a_file_that_is_no_whole_one_is_refused(cut: str, tmp_path: Path) -> None:
    wires = wires_of_text(wire_lens(ratio=2.0), LONG, window=16)
    one, two = (wire.to_bytes() for wire in wires[:2])
    data = {"": b"", "middle": one + two[:-9], "between": one + b"\0" + two, "beginning": two, "more": one + b"LWIR"}
    (tmp_path / "a.wire").write_bytes(data[cut])
    with pytest.raises(BadInput, match="wire="):
        read_wires(tmp_path / "a.wire")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"text": ""}, "text=''"),
        ({"text": " \n"}, "text="),
        ({"code_length": 21}, "code_length=21: the text has 20 tokens. Use 1 to 20"),
        ({"code_length": 0}, "code_length=0"),
        ({"code_length": 1, "window": 5}, "20 tokens in 4 windows"),
        ({"code_length": 2, "ratio": 2.0}, "Leave out ratio or code_length"),
        ({"ratio": 0.5}, "ratio=0.5"),
        ({"ratio": 0}, "ratio=0"),
        ({"code_length": 2.5}, "code_length=2.5"),
        ({"window": 1.5}, "window=1.5"),
        ({"text": "w1 \ud800"}, "half of a surrogate pair"),
        ({"text": b"w1"}, "its type is bytes"),
        ({"bits": 5}, "bits=5"),
        ({"window": 0}, "window=0: *Use 1 to|window=0"),
        ({"window": 100_000}, "the compressor's longest context"),
    ],
)  # fmt: skip
def test_what_cannot_be_compressed_is_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        wire_lens(ratio=1.0).to_bytes(**({"text": WORDS} | settings))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"receiver": None}, "receiver=None: the lens has several. Name one of words, turned"),
        ({"receiver": "nobody"}, "receiver='nobody'.*Name one of words, turned"),
        ({"task": "song"}, "task='song'"),
        ({"wire": b""}, "0 bytes"),
        ({"wire": []}, "wire="),
        ({"wire": b"PK\x03\x04"}, "first bytes are not those of a wire"),
        ({"wire": "F.wire"}, "wire='F.wire'. Give bytes"),
        ({"question": None}, "question=None: its type is NoneType"),
        ({"question": "\udc80"}, "half of a surrogate pair"),
        ({"preamble": 3}, "its type is int"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"first_temperature": -1.0}, "temperature=-1.0"),
        ({"first_top_p": 0.0}, "top_p=0.0"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_named(settings: dict[str, Any], said: str) -> None:
    lens = wire_lens(ratio=2.0)
    given = {"wire": lens.to_bytes(WORDS), "question": "w90", "receiver": "words"} | settings
    with pytest.raises(BadInput, match=said):
        lens.answer(**given)


def test_texts_and_learned_queries_are_counted() -> None:
    lens = wire_lens(slots=2, pooling="learned")
    assert counts(wires_of_text(lens, LONG, window=16)) == [2, 2, 2, 2]
    assert counts(wires_of_text(lens, WORDS, code_length=2)) == [2]
    for settings in ({"code_length": 3}, {"ratio": 2.0}):
        with pytest.raises(BadInput, match="learned queries give 2 vectors"):
            wires_of_text(lens, WORDS, **settings)
    with pytest.raises(BadInput, match="one text"):
        lens.answer(lens.to_bytes(WORDS) * 2, "w90", "words")


def test_bytes_are_compressed_too() -> None:
    lens = wire_lens(start="byte", byte_width=32, byte_heads=2, slots=4)
    text, parts = "aéé ééé ééé", ["aéé ", "ééé ", "ééé"]  # no window ends within a letter of two bytes
    (wires,) = split(lens.to_bytes(text, window=11))
    assert counts(wires) == [4, 4, 4]
    assert sum(counts(split(lens.to_bytes(text, window=1))[0])) == len(text.encode())
    for wire, part in zip(wires, parts, strict=True):
        assert torch.allclose(wire.codes(), split(lens.to_bytes(part))[0][0].codes(), atol=1e-3), part
    assert isinstance(lens.answer(wires, "w90", "words", max_new_tokens=2), str)
