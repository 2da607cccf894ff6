"""Loading from a folder: dtype, attention, and models in 8 and 4 bits that still carry gradients."""

from __future__ import annotations

import ast
import importlib.util
import logging
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import padded_batch, tiny_model, tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, GPTQConfig

from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit, FrozenLM, frozen_lm
from consistency_lens.frozen.loading.load import ATTENTION, choose_attention, quantization_of, quantization_options

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
SITES = ("embed", "resid_post.1", "mlp_out.0", "resid_post.3")
# How far the gradient of a quantised model may turn from the float32 one, measured on this model and rounded down:
# lowest cosine over rows and sites 0.9999 in 8 bits, 0.966 in 4 bits.
COSINE = {"8bit": 0.999, "4bit": 0.95}
QUANTISED = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (the extra 'quant')"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of ordinary initialisation, wide enough for blocks of 64 weights to be quantised together."""
    path = tmp_path_factory.mktemp("saved") / "llama-128"
    sizes = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "initializer_range": 0.02}
    tiny_model("llama", **sizes).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def full(folder: Path) -> FrozenLM:
    return FrozenLM.from_pretrained(folder)


def test_a_folder_is_loaded_as_it_was_saved(folder: Path, full: FrozenLM) -> None:
    assert (full.model_id, full.dtype, full.attention, full.quantization) == (
        "llama-128",
        torch.float32,
        "sdpa",
        "none",
    )
    assert full.provenance("embed") == FrozenLM.from_pretrained(str(folder)).provenance("embed")
    assert (full.name, FrozenLM.from_pretrained(folder, name="receiver").name) == ("base", "receiver")
    assert full.tokenizer("w1 w2").input_ids == [1, 5, 6]
    assert not any(parameter.requires_grad for parameter in full.model.parameters())
    for site, own in full.read(padded_batch(), SITES).items():
        assert torch.equal(full.logits(padded_batch(), Edit(site, own, None)), full.logits(padded_batch()))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", torch.bfloat16])
def test_the_dtype_is_the_wanted_one(folder: Path, dtype: str | torch.dtype) -> None:
    lm = FrozenLM.from_pretrained(folder, dtype=dtype)
    assert str(lm.dtype).removeprefix("torch.") == lm.provenance("embed").dtype == str(dtype).removeprefix("torch.")


def test_auto_says_which_attention_it_took(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="consistency_lens"):
        assert FrozenLM.from_pretrained(folder).attention == "sdpa"
    assert "llama-128: attention sdpa, dtype torch.float32, quantization none" in caplog.text
    assert str(folder) not in caplog.text


def test_attention_implementations_agree(folder: Path, full: FrozenLM) -> None:
    eager = FrozenLM.from_pretrained(folder, attn_implementation="eager")
    assert (eager.attention, full.attention) == ("eager", "sdpa")
    own = padded_batch()["attention_mask"].bool()
    torch.testing.assert_close(eager.logits(padded_batch())[own], full.logits(padded_batch())[own], **CLOSE)


@pytest.mark.parametrize("case", ["llama", "gpt2", "gemma3_text", "phi3"])
def test_without_a_gpu_auto_takes_the_best_the_architecture_has(case: str) -> None:
    config = AutoConfig.for_model(case)
    for dtype in ("auto", torch.bfloat16):
        assert choose_attention(config, "auto", dtype, None) == "sdpa"


@pytest.mark.parametrize(
    "wanted", [name for name in ATTENTION if name not in ("auto", "flash_attention_2", "flash_attention_3")]
)
def test_a_wanted_attention_is_taken_as_it_is(wanted: str) -> None:
    assert choose_attention(AutoConfig.for_model("llama"), wanted, "auto", None) == wanted


@pytest.mark.parametrize(
    ("device_map", "taken"),
    [
        ("auto", "flash_attention_2"),
        ({"": 0}, "flash_attention_2"),
        ("cpu", "sdpa"),
        ({"model.embed_tokens": 0, "model.layers": "cpu", "lm_head": "disk"}, "flash_attention_2"),
        ({"": "cpu"}, "sdpa"),
        ({"": torch.device("cpu")}, "sdpa"),
        ({"model": "cpu", "lm_head": torch.device("cpu:0")}, "sdpa"),
        (None, "sdpa"),
    ],
)
def test_on_the_cpu_of_a_machine_with_a_gpu_auto_takes_no_flash_attention(
    monkeypatch: pytest.MonkeyPatch, device_map: Any, taken: str
) -> None:
    monkeypatch.setattr("consistency_lens.frozen.loading.load.is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    # The second one is of a generation that FlashAttention 3 does not know.
    monkeypatch.setattr("consistency_lens.frozen.loading.load.is_flash_attn_3_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=0: [(9, 0), (8, 0)][device])
    assert choose_attention(AutoConfig.for_model("llama"), "auto", torch.bfloat16, device_map) == taken


@pytest.mark.parametrize("wanted", ["flash_attention_2", "flash_attention_3"])
@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is not None, reason="flash-attn is installed")
def test_a_kernel_that_is_missing_names_the_extra(folder: Path, wanted: str) -> None:
    with pytest.raises(BadInput, match=r"not installed.*consistency-lens\[flash\].*or use 'auto'") as caught:
        FrozenLM.from_pretrained(folder, attn_implementation=wanted)
    assert (caught.value.field, caught.value.value) == ("attn_implementation", wanted)


@pytest.mark.parametrize(
    ("field", "value", "fix"),
    [
        ("attn_implementation", "flash", "auto, sdpa, eager, flash_attention_2, flash_attention_3, flex_attention"),
        ("quantization", "3bit", "none, 8bit, 4bit, fp8"),
        ("dtype", "float8", "auto, float32, bfloat16, float16"),
    ],
)
def test_an_unknown_choice_names_field_value_and_choices(folder: Path, field: str, value: str, fix: str) -> None:
    with pytest.raises(BadInput, match=f"Use one of {fix}") as caught:
        FrozenLM.from_pretrained(folder, **{field: value})
    assert (caught.value.field, caught.value.value) == (field, value)


# In 8 and 4 bits.


@pytest.fixture(scope="module", params=["8bit", "4bit"])
def quantised(request: pytest.FixtureRequest, folder: Path) -> FrozenLM:
    return FrozenLM.from_pretrained(folder, quantization=request.param)


def gradient(
    lm: FrozenLM, site: str, own: torch.Tensor, cheap: bool = False, lengths: tuple[int, ...] = (12, 7, 1, 9)
) -> torch.Tensor:
    value, batch = own[: len(lengths)].clone().requires_grad_(), padded_batch(lengths)
    edit = Edit(site, value)
    logits = lm.prefix(batch).logits(edit) if cheap else lm.logits(batch, edit, keep=1)
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    (logits.float().log_softmax(-1) * weight).sum().backward()
    return value.grad


@QUANTISED
def test_a_quantised_model_is_quantised(quantised: FrozenLM, full: FrozenLM) -> None:
    sizes = {lm.quantization: lm.model.get_memory_footprint() for lm in (quantised, full)}
    assert sizes[quantised.quantization] < 0.5 * sizes["none"]
    assert quantised.provenance("embed").quantization == quantised.quantization
    difference = (quantised.logits(padded_batch()) - full.logits(padded_batch())).abs().max()
    assert 1e-4 < difference < 0.5


@QUANTISED
@pytest.mark.parametrize("site", SITES)
def test_gradients_reach_the_edit_of_a_quantised_model(quantised: FrozenLM, full: FrozenLM, site: str) -> None:
    own = full.read(padded_batch(), site)[site][:, -1]
    ours, theirs = gradient(quantised, site, own), gradient(full, site, own)
    assert torch.cosine_similarity(ours, theirs).min() > COSINE[quantised.quantization]
    assert (ours.norm(dim=-1) / theirs.norm(dim=-1) - 1).abs().max() < 0.25


@QUANTISED
@pytest.mark.parametrize("lengths", [(12, 7, 1, 9), (6,)], ids=str)  # one row, one token: bitsandbytes has another way
@pytest.mark.parametrize("site", SITES)
def test_the_swap_equals_its_slow_twin_in_a_quantised_model(
    quantised: FrozenLM, full: FrozenLM, site: str, lengths: tuple[int, ...]
) -> None:
    own = full.read(padded_batch(), site)[site][:, -1]
    for _ in range(2):  # the prefix pass has no gradient: what it leaves behind must not spoil the next one
        torch.testing.assert_close(
            gradient(quantised, site, own, True, lengths), gradient(quantised, site, own, False, lengths), **CLOSE
        )


@QUANTISED
@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_a_pass_without_gradient_does_not_spoil_the_gradients_after_it(
    folder: Path, full: FrozenLM, quantization: str
) -> None:
    """On CPUs with AVX512-BF16 bitsandbytes packs 4-bit weights in such a pass, and their product has no backward."""
    lm, site = FrozenLM.from_pretrained(folder, quantization=quantization), "resid_post.0"
    own = full.read(padded_batch(), site)[site][:, -1]
    before = gradient(lm, site, own)
    with torch.no_grad():
        clean = lm.logits(padded_batch())
        lm.read(padded_batch(), "resid_post.3")
        lm.prefix(padded_batch())
    with torch.inference_mode():
        lm.logits(padded_batch())
    assert torch.equal(gradient(lm, site, own), before)
    assert torch.equal(lm.logits(padded_batch()), clean)


@QUANTISED
def test_edits_computed_inside_a_quantised_model_equal_plain_hooks(quantised: FrozenLM) -> None:
    """Each MLP a function of the stream in front of it and of the ones below, and the stream itself edited once."""
    turn = (torch.randn(128, 128, generator=torch.Generator().manual_seed(0)) / 128**0.5).requires_grad_()
    blocks, batch = quantised.model.model.layers, padded_batch()

    def replaced(layer: int, mids: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return sum(torch.relu(mids[f"resid_mid.{i}"].float() @ turn) for i in range(layer + 1))

    edits = [
        Edit(f"mlp_out.{i}", partial(replaced, i), None, reads=tuple(f"resid_mid.{j}" for j in range(i + 1)))
        for i in range(len(blocks))
    ]
    seen: dict[str, torch.Tensor] = {}
    handles = []
    for i, block in enumerate(blocks):
        keep = partial(lambda i, module, args: seen.update({f"resid_mid.{i}": args[0]}), i)
        write = partial(lambda i, module, args, output: replaced(i, seen).to(output), i)
        handles += [
            block.post_attention_layernorm.register_forward_pre_hook(keep),
            block.mlp.register_forward_hook(write),
        ]
    theirs = quantised.logits(batch)
    for handle in handles:
        handle.remove()
    mine = quantised.logits(batch, edits)
    assert torch.equal(mine, theirs) and not torch.equal(mine, quantised.logits(batch))
    (ours,), (others,) = (torch.autograd.grad(logits.float().square().sum(), [turn]) for logits in (mine, theirs))
    assert torch.cosine_similarity(ours.flatten(), others.flatten(), dim=0) > 0.9999 and others.abs().max() > 0
    own = quantised.read(batch, "resid_mid.1")["resid_mid.1"]
    assert torch.equal(quantised.logits(batch, Edit("resid_mid.1", own, None)), quantised.logits(batch))


@QUANTISED
def test_a_quantised_model_is_quiet(
    quantised: FrozenLM, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """bitsandbytes would write a line for each layer of each pass."""
    quantised.logits(padded_batch())
    assert caplog.text == "" and "inputs will be cast" not in "".join(capfd.readouterr())


# Checkpoints that were saved quantised.


@pytest.fixture(scope="module")
def saved(quantised: FrozenLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantised") / f"llama-128-{quantised.quantization}"
    quantised.model.save_pretrained(path)
    quantised.tokenizer.save_pretrained(path)
    return path


@QUANTISED
def test_a_quantised_checkpoint_is_loaded_as_what_it_is(quantised: FrozenLM, full: FrozenLM, saved: Path) -> None:
    for wanted in ("none", quantised.quantization):
        again = FrozenLM.from_pretrained(saved, quantization=wanted)
        assert again.provenance("embed").quantization == again.quantization == quantised.quantization
        assert again.model.get_memory_footprint() == quantised.model.get_memory_footprint()
        torch.testing.assert_close(again.logits(padded_batch()), quantised.logits(padded_batch()), **CLOSE)


@QUANTISED
def test_a_quantised_model_that_is_passed_is_known_and_keeps_its_gradients(
    quantised: FrozenLM, full: FrozenLM, saved: Path
) -> None:
    lm = FrozenLM(AutoModelForCausalLM.from_pretrained(saved), tiny_tokenizer())
    assert lm.quantization == lm.provenance("embed").quantization == quantised.quantization
    if lm.quantization == "4bit":
        from bitsandbytes.nn import Linear4bit

        packed = [m.support_avx512bf16_for_cpu for m in lm.model.modules() if isinstance(m, Linear4bit)]
        assert packed and not any(packed)
    own = full.read(padded_batch(), "resid_post.1")["resid_post.1"][:, -1]
    before = gradient(lm, "resid_post.1", own)
    with torch.no_grad():
        lm.logits(padded_batch())
    assert torch.equal(gradient(lm, "resid_post.1", own), before)


@QUANTISED
def test_a_checkpoint_quantised_in_another_way_is_refused(quantised: FrozenLM, saved: Path) -> None:
    other = {"8bit": "4bit", "4bit": "8bit"}[quantised.quantization]
    with pytest.raises(BadInput, match=f"the checkpoint itself is quantised: {quantised.quantization}") as caught:
        FrozenLM.from_pretrained(saved, quantization=other)
    assert (caught.value.field, caught.value.value) == ("quantization", other)


@pytest.mark.parametrize(
    ("record", "label"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False}, "4bit"),
        ({"load_in_8bit": True}, "8bit"),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Float8WeightOnlyConfig"}}}, "fp8"),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig"}}}, "torchao"),
        (None, "none"),
    ],
)
def test_another_method_goes_by_its_own_name(record: dict | None, label: str) -> None:
    own = {} if record is None else {"quantization_config": record}
    config = AutoConfig.for_model("llama", **own)
    assert quantization_of(config) == label
    if label not in ("none", "4bit", "8bit"):
        assert quantization_options(config, "none", "auto") == {}
        with pytest.raises(BadInput, match=f"quantised: {label}"):
            quantization_options(config, "4bit", "auto")


def test_a_method_given_as_an_object_goes_by_its_name_too() -> None:
    config = AutoConfig.for_model("llama")
    config.quantization_config = GPTQConfig(bits=4)
    assert quantization_of(config) == "gptq"
    vision = AutoConfig.for_model("gemma3", text_config={"quantization_config": {"quant_method": "awq"}})
    assert quantization_of(vision) == "awq"


@pytest.mark.parametrize("wanted", ["none", "4bit"])
def test_a_quantised_checkpoint_without_bitsandbytes_names_the_extra(
    wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as if it were not installed
    config = AutoConfig.for_model("llama", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    with pytest.raises(BadInput, match=r"bitsandbytes is missing.*consistency-lens\[quant\]"):
        quantization_options(config, wanted, "auto")


# What an import costs.


def test_no_module_imports_the_compiler_before_it_is_used() -> None:
    """Some releases of transformers import it anyway; ours must not be the reason."""
    for path in Path(frozen_lm.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert "_dynamo" not in ast.unparse(node), path.name


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU may have such numbers")
def test_floats_of_8_bits_are_refused_where_no_gpu_has_them(folder: Path) -> None:
    with pytest.raises(BadInput, match="no GPU with 8-bit floats") as caught:
        FrozenLM.from_pretrained(folder, quantization="fp8")
    assert (caught.value.field, caught.value.value) == ("quantization", "fp8")


@pytest.mark.gpu
@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")
def test_floats_of_8_bits_read_nearly_as_before_and_pass_gradients_on(folder: Path) -> None:
    how = {"dtype": "bfloat16", "device_map": {"": 0}}
    plain, packed = (FrozenLM.from_pretrained(folder, quantization=q, **how) for q in ("none", "fp8"))
    batch = {"input_ids": torch.arange(4, 16).unsqueeze(0)}
    one, other = (lm.logits(batch).float().flatten() for lm in (plain, packed))
    assert packed.quantization == "fp8" and float(torch.cosine_similarity(one, other, dim=0)) > 0.99
    vector = torch.zeros(1, 32, device=packed.device, requires_grad=True)
    packed.logits(batch, Edit("resid_post.1", vector, mode="add")).float().logsumexp(-1).sum().backward()
    assert vector.grad is not None and bool(vector.grad.isfinite().all()) and bool(vector.grad.any())


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_without_bitsandbytes_the_error_names_the_extra(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"consistency-lens\[quant\]"):
        FrozenLM.from_pretrained(folder, quantization="4bit")
