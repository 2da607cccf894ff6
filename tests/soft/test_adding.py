"""Another receiver, with the compressor as it is."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny import tiny_model
from wire_runs import rows_of, turned_tokenizer, wire_lens, wire_models

from consistency_lens.activations.passages import Passages
from consistency_lens.errors import BadInput
from consistency_lens.frozen import FrozenLM, FrozenModels
from consistency_lens.soft.arguments import LatentWireArguments
from consistency_lens.soft.data import collator_of
from consistency_lens.soft.modeling import LatentWire
from consistency_lens.soft.options import WireOptions
from consistency_lens.soft.parts.adding import trained_alone, with_one_of, with_receiver
from consistency_lens.soft.report.answering import Answering
from consistency_lens.soft.trainer import LatentWireTrainer


@cache
def third_model() -> FrozenLM:
    """A model of its own, whose embeddings are the llama's in another direction and scale."""
    lm, tokenizer = tiny_model("qwen3"), turned_tokenizer()
    known = wire_models()["words"]
    turn = 3 * torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(2)))[0]
    with torch.no_grad():
        for word, number in tokenizer.get_vocab().items():
            if word in known.tokenizer.get_vocab():
                at = known.tokenizer.get_vocab()[word]
                row = known.model.get_input_embeddings().weight[at]
                lm.get_input_embeddings().weight[number] = row @ turn
    return FrozenLM(lm, tokenizer, model_id="tiny-third", name="third")


def test_it_reads_before_any_training(tmp_path: Path) -> None:
    lens = wire_lens(calibrate=False)
    new = with_receiver(lens, third_model())
    models = FrozenModels([*wire_models().values(), third_model()])
    rows = [row | {"answers": [row["answer"]], "task": "answer", "ends": True} for row in rows_of(6)]
    batch = collator_of(new.config, models)(rows)
    compared = Answering.among(third_model(), batch["tokens"]["third"])
    code = new.compress(batch)
    found, none = (compared.measure(edits)["kl"].mean() for edits in (new.soft_tokens(code, batch, "third"), []))
    assert found < 0.2 * none
    for ours, theirs in zip(lens.restore(code, batch), new.restore(code, batch), strict=False):
        assert torch.equal(ours.tensor, theirs.tensor) and ours.lm == theirs.lm
    assert torch.equal(code.vectors, lens.compress(batch).vectors) and lens.config.names == ["words", "turned"]
    new.save_pretrained(tmp_path)
    again = LatentWire.from_pretrained(tmp_path, subject=models)
    assert torch.equal(again.restore(code, batch)[2].tensor, new.restore(code, batch)[2].tensor)


def test_it_is_trained_alone() -> None:
    new = with_receiver(wire_lens(slots=2, modes=["answer"]), third_model())
    models = FrozenModels([*wire_models().values(), third_model()])
    rows = [row | {"answers": [row["answer"]], "task": "answer", "ends": True} for row in rows_of(6)]
    batch = collator_of(new.config, models)(rows)
    output = trained_alone(new, "third")(batch, models, "third")
    assert output.terms is not None
    output.terms["ce"].mean().backward()
    with_gradient = {name for name, p in new.named_parameters() if p.grad is not None}
    assert with_gradient and all(name.startswith("receivers.2") for name in with_gradient)


def test_a_trainer_trains_it_alone_and_old_wires_stay_readable(tmp_path: Path) -> None:
    lens = wire_lens(slots=2)
    new = trained_alone(with_receiver(lens, third_model()), "third")
    models = FrozenModels([*wire_models().values(), third_model()])
    text, before = "w1 w2 w3 w4", {name: p.detach().clone() for name, p in new.named_parameters()}
    data = lens.to_bytes(text)
    passages = Passages.from_dataset(Dataset.from_list(rows_of(24)), validation_fraction=0.2)
    given: dict[str, Any] = {"max_steps": 4, "learning_rate": 1e-2, "eval_rows": 4, "report_to": "none"}
    given |= {"per_device_train_batch_size": 4, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
    arguments = LatentWireArguments(str(tmp_path), logging_steps=1, **given)
    trainer = LatentWireTrainer(new, arguments, passages, frozen=models)
    trainer.train()
    read = {name for row in trainer.state.log_history for name in row if name.startswith("ce/")}
    assert trainer.readers == ["third"] and read == {"ce/third"}, "in every step"
    changed = {name for name, p in new.named_parameters() if not torch.equal(p, before[name])}
    assert changed and all(name.startswith("receivers.2") for name in changed)
    assert new.to_bytes(text) == data
    assert new.answer(data, "w90", "words", max_new_tokens=2) == lens.answer(data, "w90", "words", max_new_tokens=2)


def test_a_saved_wire_gets_the_one_model_that_is_new_to_it(tmp_path: Path) -> None:
    wire_lens(slots=2, answer_choice={"turned": 1}).save_pretrained(tmp_path)
    words, turned = wire_models().values()
    new = with_one_of(str(tmp_path), FrozenModels([words, turned, third_model()]), {"third": 2})
    assert new.config.answer_choice == {"turned": 1, "third": 2} and new.config.names == ["words", "turned", "third"]
    trained = {name for name, p in new.named_parameters() if p.requires_grad}
    assert trained and all(name.startswith("receivers.2") for name in trained)
    for models, choices, said in [
        ([words, turned], {}, "add_to=.*0 of them are new to it. Name the models of .* and one more"),
        ([words, turned, third_model()], {"turned": 0}, "answer_choice='turned'. Name third"),
        ([words, third_model()], {}, "also needs turned"),
    ]:
        with pytest.raises(BadInput, match=said):
            with_one_of(str(tmp_path), FrozenModels(models), choices)
    with pytest.raises(BadInput, match=r"bits=4. Leave it out: L has it already"):
        WireOptions(add_to="L", bits=4)


def test_what_cannot_be_added_is_refused() -> None:
    lens = wire_lens(slots=2)
    with pytest.raises(BadInput, match="turned"):
        with_receiver(lens, wire_models()["turned"])
    lens.models = None
    with pytest.raises(BadInput, match="subject"):
        with_receiver(lens, third_model())
