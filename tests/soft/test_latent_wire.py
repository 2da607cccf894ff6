"""The model: passages to a code, a code to soft tokens of every model, and the way to a folder and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from wire_runs import NAMES, batch_of, text_batch, wire_lens, wire_models

from consistency_lens.base.comparing import Joint, apply_lens
from consistency_lens.base.configuration import LensConfig
from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit, FrozenLM, FrozenModels, ProvenanceMismatch
from consistency_lens.objectives import answer_nll_of
from consistency_lens.soft.bytes.wire import Wire
from consistency_lens.soft.data import collator_of
from consistency_lens.soft.modeling import LatentWire
from consistency_lens.soft.report.answering import Answering
from consistency_lens.soft.serving.identity import identity_of


def test_at_one_token_per_vector_the_start_is_the_text() -> None:
    """Before any training: the embeddings are the code, and each model reads them as it reads the words."""
    lens, batch = wire_lens(calibrate=False), batch_of()
    edits = wire_models().deal(lens.restore(lens.compress(batch), batch))
    for name, model in wire_models().items():
        tokens = batch["tokens"][name]
        count = tokens["answer_ids"].shape[1]
        text, code = model.logits(tokens["full"], keep=count), model.logits(tokens["bare"], edits[name], keep=count)
        none = model.logits(tokens["bare"], keep=count)
        kept = tokens["answer_mask"].bool()
        off, far = ((each - text)[kept].abs().mean() for each in (code, none))
        assert off < 0.02 * far if name == "words" else off < 0.5 * far, (name, off, far)


def test_embeddings_as_soft_tokens_are_the_ids() -> None:
    batch = batch_of()
    for model in wire_models().values():
        tokens = batch["tokens"][model.name]
        value = model.model.get_input_embeddings()(tokens["passage_ids"])
        edit = Edit("embed", value, tokens["bos"], "prepend", mask=tokens["passage_mask"])
        compared = Answering.among(model, tokens)
        torch.testing.assert_close(compared.edited(edit), compared.clean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("start", ["lm", "byte"])
@pytest.mark.parametrize("rate", [{"ratio": 2.0}, {"slots": 2}, {"slots": 3, "pooling": "learned"}])
@pytest.mark.parametrize("causal", [True, False])
def test_padding_never_changes_a_code(start: str, rate: dict[str, float], causal: bool) -> None:
    lens = wire_lens(start=start, causal=causal, byte_width=16, modes=["answer"], **rate)
    torch.nn.init.normal_(lens.compressor.out.weight, std=0.2)
    together = batch_of(5)
    code = lens.compress(together)
    edits = wire_models().deal(lens.restore(code, together))
    for row in range(5):
        alone = batch_of([row])
        own = lens.compress(alone)
        there = code.vectors[row][code.mask[row]]
        torch.testing.assert_close(there, own.vectors[0][own.mask[0]], rtol=1e-3, atol=2e-3)
        for name, theirs in wire_models().deal(lens.restore(own, alone)).items():
            assert theirs[0].mask is not None and edits[name][0].mask is not None
            found = edits[name][0].tensor[row][edits[name][0].mask[row].bool()]
            torch.testing.assert_close(found, theirs[0].tensor[0][theirs[0].mask[0].bool()], rtol=1e-3, atol=5e-3)
    assert len({int(n) for n in code.mask.sum(1)}) > 1 or "ratio" not in rate


def test_the_rate_is_what_the_configuration_says() -> None:
    batch = batch_of(7)
    lengths = batch["tokens"]["words"]["passage_mask"].sum(1).tolist()
    assert wire_lens(ratio=2.0).compress(batch).counts == [-(-n // 2) for n in lengths]
    assert wire_lens(slots=4).compress(batch).counts == [min(n, 4) for n in lengths]
    assert wire_lens(slots=4).encode(batch, ratio=3.0).counts == [-(-n // 3) for n in lengths]
    assert wire_lens(slots=4, pooling="learned").compress(batch).counts == [4] * 7
    with pytest.raises(BadInput, match="ratio"):
        wire_lens(slots=4, pooling="learned").encode(batch, ratio=2.0)


def test_the_loss_is_a_cross_entropy_sliced_by_hand() -> None:
    """Row by row, without padding, each answer token from the column before it; a second shift would not pass."""
    lens, batch = wire_lens(slots=3), batch_of()
    output = lens(batch, wire_models(), "turned", first_weight=0.5)
    model, by_hand, shifted = wire_models()["turned"], [], []
    for row in range(6):
        one = batch_of([row])
        tokens = one["tokens"]["turned"]
        answer = tokens["answer_ids"][0]
        edit = lens.soft_tokens(lens.compress(one), one, "turned")
        logits = model.logits(tokens["bare"], edit)[0].log_softmax(-1)
        first = len(logits) - len(answer)
        losses = [-logits[first + t, answer[t]] for t in range(len(answer))]
        by_hand.append(sum(losses) / len(answer) + 0.5 * losses[0])
        shifted.append(-logits[first, answer[1]])
    assert output.terms is not None
    torch.testing.assert_close(output.terms["ce"], torch.stack(by_hand), rtol=1e-4, atol=1e-4)
    assert (output.terms["ce"] - torch.stack(shifted)).abs().max() > 0.1


def test_all_parts_get_a_gradient_from_one_call() -> None:
    lens = wire_lens(slots=3, modes=["answer"], bits=8)
    torch.nn.init.normal_(lens.compressor.out.weight, std=0.1)
    output = lens(batch_of(), wire_models(), "words", top_k=8)
    assert output.terms is not None and set(output.terms) == {"ce", "kd"}
    sum(term.mean() for term in output.terms.values()).backward()
    without = [name for name, p in lens.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without and all(name.startswith("receivers.1") for name in without)
    assert not any(p.requires_grad or p.grad is not None for m in wire_models().values() for p in m.model.parameters())


def test_it_is_compared_over_the_answer_with_the_text() -> None:
    lens, batch = wire_lens(calibrate=False), batch_of()
    applied = apply_lens(lens, wire_models(), batch)
    assert isinstance(applied.comparison, Joint)
    found, none = applied.comparison.measure(applied.edits), applied.comparison.measure([])
    assert bool((found["kl/words"] < 0.01).all()) and found["kl"].mean() < none["kl"].mean() / 4
    tokens = batch["tokens"]["turned"]
    model = wire_models()["turned"]
    logits = model.logits(tokens["bare"], keep=tokens["answer_ids"].shape[1])
    torch.testing.assert_close(none["nll/turned"], answer_nll_of(logits, tokens["answer_ids"], tokens["answer_mask"]))


@pytest.mark.parametrize("bits", [16, 8, 6, 4])
def test_a_code_is_what_comes_out_of_its_bytes(bits: int) -> None:
    lens, batch = wire_lens(ratio=2.0, bits=bits, group=8), batch_of()
    code = lens.compress(batch)
    me = identity_of(lens.compressor)
    sent = [wire.to_bytes() for wire in lens.wire(code, me)]
    assert [len(each) for each in sent] == [row["bytes"] for row in lens.describe(code)]
    assert len(lens.to_bytes(batch["passage"][0])) == lens.describe(code)[0]["bytes"], (
        "what is reported is what is sent"
    )
    again = lens.from_wire([Wire.from_bytes(each) for each in sent], me)
    assert torch.equal(again.vectors, code.vectors) and torch.equal(again.mask, code.mask)
    ours, theirs = (
        apply_lens(lens, wire_models(), batch).comparison.edited(lens.restore(c, batch)) for c in (code, again)
    )
    assert torch.equal(ours, theirs)
    with pytest.raises(BadInput, match="another lens"):
        lens.from_wire(Wire.from_bytes(sent[0]), "you")
    with pytest.raises(BadInput, match="vectors of 32"):
        wire_lens(d_z=16).from_wire(Wire.from_bytes(sent[0]))


@pytest.mark.parametrize(
    "settings", [{"slots": 3, "modes": ["answer"]}, {"start": "byte", "byte_width": 16, "activation": "silu"}]
)
def test_it_comes_back_as_it_was(tmp_path: Path, settings: dict[str, Any]) -> None:
    lens = wire_lens(**settings, bits=8)
    torch.nn.init.normal_(lens.compressor.out.weight, std=0.2)
    lens.save_pretrained(tmp_path)
    for subject in (wire_models(), None):
        found = LatentWire.from_pretrained(tmp_path, subject=subject)
        assert found.config.compressor == lens.config.compressor
        said, known = (each.config.to_dict() for each in (found, lens))
        assert said | {"compressor": None} == known | {"compressor": None}
        batch = batch_of()
        assert torch.equal(found.compress(batch).vectors, lens.compress(batch).vectors)
        pairs = zip(
            found.restore(found.compress(batch), batch), lens.restore(lens.compress(batch), batch), strict=True
        )
        assert all(torch.equal(ours.tensor, theirs.tensor) for ours, theirs in pairs)
    with pytest.raises(BadInput, match="turned"):
        LatentWire.from_pretrained(tmp_path, subject=wire_models()["words"])
    with pytest.raises(BadInput, match="order"):
        LatentWire.from_pretrained(tmp_path, subject=FrozenModels([*wire_models().values()][::-1]))
    said = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(said | {"d_z": 7}))
    with pytest.raises(BadInput, match=r"compressor\.down"):
        LatentWire.from_pretrained(tmp_path, subject=wire_models())
    said["other_models"]["turned"]["tokenizer"] = "another"
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(ProvenanceMismatch, match="turned"):
        LatentWire.from_pretrained(tmp_path, subject=wire_models())


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "nonsense"},
        {"model_type": "t5"},
        {"model_type": "mamba"},
        {"num_attention_heads": 5},
        {"vocab_size": 0},
    ],
)
def test_a_damaged_record_of_the_compressor_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    wire_lens(slots=3).save_pretrained(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    said["compressor"] |= changes
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(BadInput):
        LatentWire.from_pretrained(tmp_path, subject=wire_models())


def test_a_single_model_goes_by_the_usual_name(tmp_path: Path) -> None:
    words = wire_models()["words"]
    with pytest.raises(BadInput, match="single model"):
        LatentWire.from_models(words, slots=2)
    only = FrozenLM(words.model, words.tokenizer, model_id=words.model_id)
    lens = LatentWire.from_models(only, slots=2)
    lens.save_pretrained(tmp_path)
    assert LatentWire.from_pretrained(tmp_path, subject=only).config.names == ["base"]


def test_what_cannot_be_compressed_is_refused() -> None:
    lens, batch = wire_lens(), batch_of()
    with pytest.raises(BadInput, match="nobody"):
        lens.receiver("nobody")
    batch["tokens"]["words"]["passage_mask"][0] = 0
    with pytest.raises(BadInput, match="without a token"):
        lens.compress(batch)
    with pytest.raises(BadInput, match="at most 128"):
        lens.compressor(torch.ones(1, 200, dtype=torch.long), torch.ones(1, 200))
    with pytest.raises(BadInput, match="1 to 4"):
        wire_lens(layers=5)
    with pytest.raises(BadInput, match="bos='always': the tokenizer of tiny-turned has no BOS token"):
        collator_of(wire_lens(bos="always").config, wire_models())
    with pytest.raises(BadInput, match="passage"):
        lens.compress(text_batch(lens, " "))
    assert isinstance(lens.config, LensConfig) and lens.config.medium == "soft"


def test_people_see_the_question_and_what_is_predicted_as_the_answers_first_token() -> None:
    """The answer itself is not in the context; the column behind it predicts that the answer ends."""
    batch, models = batch_of(5), wire_models()
    for name in NAMES:
        tokens = batch["tokens"][name]
        compared = Answering.among(models[name], tokens)
        for row, answer in enumerate(tokens["answer_ids"]):
            width = tokens["full"]["attention_mask"][row].sum() - tokens["answer_mask"][row].sum() + 1
            read = tokens["full"]["input_ids"][row][tokens["full"]["attention_mask"][row].bool()]
            assert compared.ids(row) == read[:width].tolist()
            alone = models[name].logits({"input_ids": read[None, :width]})[0, -1]
            torch.testing.assert_close(compared.clean[row, compared.shown_column(row)], alone, atol=1e-4, rtol=1e-4)
            assert read[width:].tolist() == answer[: len(read) - width].tolist()
