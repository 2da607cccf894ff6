"""Adapters on a frozen model in 8 or 4 bits (QLoRA): both parts learn, the packed weights stay, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from extracting import extract_to, random_texts
from lens_runs import arguments, changed, copies, tiny_lens
from safetensors.torch import load_file
from tiny import tiny_model, tiny_tokenizer

from consistency_lens.activations import Activations
from consistency_lens.errors import BadInput
from consistency_lens.frozen import FrozenLM
from consistency_lens.text.modeling import ConsistencyLens
from consistency_lens.text.trainer import ConsistencyLensTrainer

pytest.importorskip("bitsandbytes", reason="the extra 'quant' is not installed")
RUN: dict[str, Any] = {"max_steps": 5, "warm_steps": 2, "ema_decay": 0.9, "save_strategy": "steps", "save_steps": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of ordinary initialisation, wide enough for blocks of 64 weights to be quantised together."""
    path = tmp_path_factory.mktemp("saved") / "llama-128"
    sizes = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "initializer_range": 0.02}
    tiny_model("llama", num_hidden_layers=2, **sizes).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(params=["8bit", "4bit"])
def frozen(request: pytest.FixtureRequest, folder: Path) -> FrozenLM:
    return FrozenLM.from_pretrained(folder, quantization=request.param)


@pytest.fixture
def rows(frozen: FrozenLM, tmp_path_factory: pytest.TempPathFactory) -> Activations:
    texts = random_texts(40, shortest=8, longest=16)
    return extract_to(tmp_path_factory.mktemp("rows") / "rows", texts, frozen, continuation_length=4)


def packed(frozen: FrozenLM) -> dict[str, torch.Tensor]:
    """The frozen model's own tensors, as they lie there."""
    own = {name: tensor for name, tensor in frozen.model.state_dict().items() if "lora" not in name}
    assert any(tensor.dtype in (torch.int8, torch.uint8) for tensor in own.values())
    return {name: tensor.detach().clone() for name, tensor in own.items()}


def trainer_of(folder: Path, frozen: FrozenLM, rows: Activations, **changes: Any) -> ConsistencyLensTrainer:
    lens = tiny_lens(frozen, trainable="lora", lora_rank=4)
    return ConsistencyLensTrainer(lens, arguments(folder, **(RUN | changes)), rows, frozen=frozen)


@pytest.mark.parametrize("estimator", ["policy", "parallel"])
def test_both_adapters_learn_and_the_weights_below_stay(
    tmp_path: Path, frozen: FrozenLM, rows: Activations, estimator: str
) -> None:
    trainer = trainer_of(tmp_path, frozen, rows, estimator=estimator, max_steps=4)
    before, weights = copies(trainer.trainable), packed(frozen)
    logits = frozen.logits({"input_ids": torch.tensor([[1, 7, 8]]), "attention_mask": torch.ones(1, 3).long()})
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    for entry in logged:  # the warm start, and behind it with the judge
        assert entry["grad_norm/decoder"] > 0 and entry["grad_norm/encoder"] > 0 and entry["skipped_steps"] == 0
    moved = changed(trainer.trainable, before)
    assert all(any(part in name and "lora_B" in name for name in moved) for part in ("decoder", "encoder"))
    after = packed(frozen)
    assert after.keys() == weights.keys() and all(torch.equal(after[name], weights[name]) for name in weights)
    again = frozen.logits({"input_ids": torch.tensor([[1, 7, 8]]), "attention_mask": torch.ones(1, 3).long()})
    assert torch.equal(again, logits), "with the adapters off the frozen model is itself"


def test_saved_loaded_and_resumed(tmp_path: Path, frozen: FrozenLM, rows: Activations, folder: Path) -> None:
    undisturbed = trainer_of(tmp_path / "whole", frozen, rows)
    undisturbed.train()
    kept = [name for f in (tmp_path / "whole/checkpoint-4").rglob("*.safetensors") for name in load_file(f)]
    assert kept and all("lora_" in name or "map." in name for name in kept), "no weights of the frozen model"
    fresh = FrozenLM.from_pretrained(folder, quantization=frozen.quantization)
    resumed = trainer_of(tmp_path / "whole", fresh, rows)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-4"))
    assert not changed(resumed.trainable, copies(undisturbed.trainable))
    undisturbed.save_lens(tmp_path / "lens")
    third = FrozenLM.from_pretrained(folder, quantization=frozen.quantization)
    lens = ConsistencyLens.from_pretrained(tmp_path / "lens", third)
    trained = {name: p for part in lens.parts().values() for name, p in part.items()}
    assert not changed(trained, copies(undisturbed.trainable))
    vectors = torch.randn(4, 128, generator=torch.Generator().manual_seed(0))
    batch = {"activations": {lens.config.sites[0]: vectors}}
    texts = [each.compress(batch) for each in (lens, undisturbed.lens.eval())]
    assert torch.equal(texts[0].ids, texts[1].ids)


def test_what_packed_weights_cannot_do_is_refused(frozen: FrozenLM) -> None:
    with pytest.raises(BadInput, match="a quantised model cannot be cloned"):
        tiny_lens(frozen, trainable="full")
    with pytest.raises(BadInput, match=rf"quantization='{frozen.quantization}': adapters cannot become part"):
        tiny_lens(frozen, trainable="lora").merge_for_release()
