"""Models that take turns on a device: one at a time, the others in the CPU's memory, as they were."""

from __future__ import annotations

import pytest
import torch
from tiny import padded_batch, tiny_lm

from consistency_lens.errors import BadInput
from consistency_lens.frozen import FrozenLM, FrozenModels


def two_models() -> FrozenModels:
    found = []
    for case in ("llama", "gpt2"):
        lm = tiny_lm(case)
        found.append(FrozenLM(lm.model, lm.tokenizer, model_id=lm.model_id, name=case))
    return FrozenModels(found)


def places(model: FrozenLM) -> list[int]:
    """Where its tensors lie in memory; asking for `model.model` would move them."""
    held = model._model
    return [tensor.data_ptr() for tensor in (*held.parameters(), *held.buffers())]


def test_one_model_lies_on_the_device_and_the_others_wait_unchanged() -> None:
    models = two_models()
    waiting, numbers = ({name: f(m) for name, m in models.items()} for f in (places, numbers_of))
    seat = models.take_turns("cpu")
    assert {name: places(model) for name, model in models.items()} == waiting and seat.changes == 0
    for name, other in (("llama", "gpt2"), ("gpt2", "llama"), ("llama", "gpt2")):
        assert models[name].model is not None and models[name].model is not None
        assert not set(places(models[name])) & set(waiting[name]), "what is on the device is a copy"
        assert places(models[other]) == waiting[other]
        assert numbers_of(models[name]) == numbers[name] and numbers_of(models[other]) == numbers[other]
    assert seat.changes == 3, "a model that is there stays"
    assert models["gpt2"].num_layers and models["gpt2"].vocab_size and models["gpt2"].device == seat.device
    assert seat.changes == 3, "its sizes need no place"


def numbers_of(model: FrozenLM) -> list[float]:
    return [float(tensor.double().sum()) for tensor in model._model.parameters()]


def test_turns_change_no_number() -> None:
    apart, shared = two_models(), two_models()
    seat, batch = shared.take_turns("cpu"), padded_batch()
    for _ in range(2):
        for name, model in shared.items():
            assert torch.equal(model.logits(batch), apart[name].logits(batch))
    assert seat.changes == 4


def test_a_model_that_cannot_move_is_refused() -> None:
    models = two_models()
    models["gpt2"].to("meta")
    with pytest.raises(BadInput, match="sequential='gpt2': its weights are meta"):
        models.take_turns("cpu")
