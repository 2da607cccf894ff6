"""One set of weights for the model, the decoder and the encoder; with the adapters off it is the model itself."""

from __future__ import annotations

import gc
from collections import Counter
from pathlib import Path

import pytest
import torch
from lens_runs import SITE, changed, copies, gradients, stirred, tiny_lens, trainer_of
from tiny import padded_batch, tiny_lm, tiny_model
from torch import Tensor

from consistency_lens.base.adapters import speaking
from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit, FrozenLM
from consistency_lens.text.modeling import ConsistencyLens
from consistency_lens.text.parts.generation import Noise

CASES = ["llama", "gpt2", "gemma2", "gemma3-vision"]
PARTS = ("decoder", "encoder")


def activations(rows: int = 4) -> Tensor:
    return torch.randn(rows, 32, generator=torch.Generator().manual_seed(0))


def answers(frozen: FrozenLM) -> list[Tensor]:
    """What the frozen model says and holds, in each of the ways in which it is asked."""
    batch = padded_batch()
    edit = Edit(SITE, activations())
    prefix = frozen.prefix(batch)
    said = [frozen.logits(batch), frozen.logits(batch, edit), prefix.logits(), prefix.logits(edit)]
    return [*said, *frozen.read(batch, [SITE, "resid_post.3"]).values()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(params=CASES)
def lens(request: pytest.FixtureRequest) -> ConsistencyLens:
    return stirred(tiny_lens(tiny_lm(request.param), trainable="lora"))


def test_three_models_are_one_set_of_weights(lens: ConsistencyLens) -> None:
    plain = tiny_model(lens.subject.model_id.removeprefix("tiny-"))
    own = {id(p) for part in lens.parts().values() for p in part.values()}
    shared = {p.data_ptr() for p in lens.parameters() if id(p) not in own}
    assert shared == {p.data_ptr() for p in lens.subject.model.parameters() if id(p) not in own}
    assert len(shared) == len(list(plain.parameters()))
    assert lens.decoder.lm is lens.encoder.lm is lens.subject.model
    assert not any(p.requires_grad for p in lens.subject.model.parameters() if id(p) not in own)
    assert all(p.requires_grad for part in lens.parts().values() for p in part.values())


@pytest.mark.parametrize("case", CASES)
def test_with_adapters_off_it_is_the_subject_bit_for_bit(case: str) -> None:
    frozen = tiny_lm(case)
    before = answers(frozen)
    lens = stirred(tiny_lens(frozen, trainable="lora"))
    assert same(answers(frozen), before)
    out = lens(activations(), noise=Noise(1), estimator="parallel")
    assert same(answers(frozen), before)
    out.restored.sum().backward()
    assert same(answers(frozen), before)
    for name in PARTS:
        with speaking(frozen.model, name):
            assert not same([frozen.logits(padded_batch())], before[:1])
    assert same(answers(frozen), before)


@pytest.mark.parametrize("estimator", ["policy", "parallel", "sequential"])
def test_training_moves_both_adapters_and_never_the_subject(tmp_path: Path, estimator: str) -> None:
    frozen = tiny_lm()
    before = answers(frozen)
    lens = tiny_lens(frozen, trainable="lora")
    trainer = trainer_of(tmp_path, frozen, lens, estimator=estimator, warm_steps=1, max_steps=2)
    parts = {name: copies(part) for name, part in lens.parts().items()}
    weights = copies({n: p for n, p in frozen.model.named_parameters() if "lora_" not in n})
    trainer.train()
    assert same(answers(frozen), before)
    after = dict(frozen.model.named_parameters())
    assert all(torch.equal(after[name], tensor) for name, tensor in weights.items())
    for name, part in lens.parts().items():
        moved = changed(part, parts[name])
        # Of the encoder's last block, what comes after the site's last token is not asked for.
        assert len(moved) > 0.8 * len(part), name


def test_one_backward_pass_reaches_both_adapters(lens: ConsistencyLens) -> None:
    lens(activations(), noise=Noise(1, 0.7), estimator="parallel").restored.square().sum().backward()
    for name in PARTS:
        own = lens.parts()[name]
        found = gradients(own)
        assert found.keys() == own.keys(), name
        assert all(bool(g.isfinite().all()) for g in found.values())
        assert sum(bool(g.any()) for g in found.values()) > 0.9 * len(own), name


@pytest.mark.parametrize("estimator", ["policy", "parallel"])
@pytest.mark.parametrize("trainable", ["lora", "full", "projections"])
@pytest.mark.parametrize("case", CASES)
def test_recomputing_changes_no_gradient(case: str, trainable: str, estimator: str) -> None:
    """Both adapters in one backward pass, each block recomputed under the adapter of its forward pass; no dropout."""
    found = []
    for recompute in (False, True):
        dropout = {} if case != "gpt2" else {"resid_pdrop": 0.5, "attn_pdrop": 0.5, "embd_pdrop": 0.5}
        if case == "llama":
            dropout = {"attention_dropout": 0.5}
        lens = stirred(tiny_lens(tiny_lm(case, **dropout), trainable=trainable))
        if recompute:
            lens.checkpoint_activations()
        lens.train()
        out = lens(activations(), noise=Noise(1, 0.7), estimator=estimator)
        (out.restored.square().sum() + out.logits.log_softmax(-1)[..., 5:].square().mean()).backward()
        found.append(gradients({name: p for part in lens.parts().values() for name, p in part.items()}))
        found[-1]["logits"] = out.logits.detach()
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name


def test_recomputing_keeps_less() -> None:
    """What autograd keeps for the backward pass shrinks: blocks are run again, not remembered."""
    kept = []
    for recompute in (False, True):
        lens = stirred(tiny_lens(tiny_lm(), trainable="lora"))
        if recompute:
            lens.checkpoint_activations()
        sizes: list[int] = []

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        words = lens.decoder.write(activations(), Noise(1))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            lens.decoder.score(activations(), words)
        kept.append(sum(sizes))
    assert kept[1] < 0.6 * kept[0]


def test_an_exception_leaves_adapters_off(lens: ConsistencyLens) -> None:
    frozen = lens.subject
    before = answers(frozen)
    with pytest.raises(RuntimeError, match="in between"), speaking(frozen.model, "decoder"):
        raise RuntimeError("in between")
    assert same(answers(frozen), before)
    with pytest.raises(RuntimeError), lens.decoder.working():
        frozen.model(inputs_embeds=torch.zeros(1, 1, 7))
    assert same(answers(frozen), before)
    with speaking(frozen.model, "decoder"):
        inner = frozen.model(padded_batch((5, 5))["input_ids"]).logits
        with pytest.raises(RuntimeError, match="deeper"), speaking(frozen.model, "encoder"):
            raise RuntimeError("deeper")
        assert torch.equal(frozen.model(padded_batch((5, 5))["input_ids"]).logits, inner)
    assert same(answers(frozen), before)


def test_a_failing_loss_leaves_adapters_off(tmp_path: Path) -> None:
    frozen = tiny_lm()
    before = answers(frozen)
    lens = tiny_lens(frozen, trainable="lora")
    trainer = trainer_of(tmp_path, frozen, lens)
    lens.config.prompt_ids = [1, 5, 6]
    with pytest.raises(BadInput, match="exactly once"):
        trainer.train()
    assert same(answers(frozen), before)


@pytest.mark.parametrize("part", PARTS)
def test_adapter_files_load_without_us(lens: ConsistencyLens, part: str, tmp_path: Path) -> None:
    """transformers reads them from their folder and says what the part says."""
    lens.save_pretrained(tmp_path)
    ids = padded_batch((7, 7))["input_ids"]
    with speaking(lens.subject.model, part), torch.no_grad():
        expected = lens.subject.model(ids).logits
    plain = tiny_model(lens.subject.model_id.removeprefix("tiny-")).eval()
    assert not torch.allclose(plain(ids).logits, expected)
    plain.load_adapter(str(tmp_path / part))
    assert torch.equal(plain(ids).logits, expected)


@pytest.mark.parametrize("part", PARTS)
def test_adapter_files_load_in_peft(part: str, tmp_path: Path) -> None:
    from peft import PeftModel

    lens = stirred(tiny_lens(tiny_lm(), trainable="lora"))
    lens.save_pretrained(tmp_path)
    ids = padded_batch((7, 7))["input_ids"]
    with speaking(lens.subject.model, part), torch.no_grad():
        expected = lens.subject.model(ids).logits
    model = PeftModel.from_pretrained(tiny_model("llama").eval(), str(tmp_path / part))
    assert torch.equal(model(ids).logits, expected)


def test_the_encoder_adapts_no_layer_above_its_site(lens: ConsistencyLens) -> None:
    layers = {part: {key.split(".lora_")[0] for key in lens.parts()[part]} for part in PARTS}
    assert layers["encoder"] < layers["decoder"]
    assert not any(f".{i}." in key for key in layers["encoder"] for i in (2, 3))
    assert not any("vision" in key or "lm_head" in key for key in layers["decoder"])
    # Parts are not mistaken for each other where a module of the model bears the name of one.
    assert lens.parts()["decoder"].keys().isdisjoint(lens.parts()["encoder"])


def test_adapters_learn_in_float32_on_a_half_precision_subject() -> None:
    frozen = tiny_lm()
    frozen.model.to(torch.bfloat16)
    lens = tiny_lens(frozen, trainable="lora")
    assert all(p.dtype == torch.float32 for part in lens.parts().values() for p in part.values())
    restored = lens(activations(), noise=Noise(1), estimator="parallel").restored
    restored.square().sum().backward()
    assert restored.dtype == torch.float32 and frozen.dtype == torch.bfloat16
    assert all(bool(g.isfinite().all()) for part in lens.parts().values() for g in gradients(part).values())


def test_passes_leave_nothing_behind(lens: ConsistencyLens) -> None:
    def count() -> Counter[str]:
        gc.collect()
        return Counter(type(o).__name__ for o in gc.get_objects() if issubclass(type(o), Tensor))

    def step() -> None:
        lens(activations(), noise=Noise(1), estimator="parallel").restored.sum().backward()
        lens.zero_grad(set_to_none=True)

    step()
    before, names = count(), [name for name, _ in lens.named_parameters()]
    for _ in range(3):
        step()
    assert count() == before and [name for name, _ in lens.named_parameters()] == names
    modules = list(lens.subject.model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)
