"""A model in numbers: those of the real thing, without its weights."""

from __future__ import annotations

import pytest
import torch
from lens_runs import tiny_lens
from tiny import TINY_CONFIGS, tiny_lm, tiny_model
from transformers import AutoConfig

from consistency_lens.frozen.anatomy.parts import blocks_of
from consistency_lens.text.planning import Work
from consistency_lens.text.planning.memory import trained_of
from consistency_lens.text.planning.sizing import sizes_of

CASES = [case for case in TINY_CONFIGS if "-" not in case or case == "gemma3-vision"]


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_those_of_a_model_with_weights(case: str) -> None:
    model = tiny_model(case)
    sizes = sizes_of(model.config, "float32", rank=4)
    text = model.config.get_text_config()
    assert sizes.weights == sum(p.numel() for p in model.parameters())
    assert sizes.in_blocks == sum(p.numel() for p in blocks_of(model).parameters())
    assert (sizes.depth, sizes.width, sizes.words) == (4, 32, model.get_input_embeddings().weight.shape[0])
    assert sizes.head == (0 if text.tie_word_embeddings else sizes.table)
    assert sizes.kept["judge"] < min(sizes.kept["lora"], sizes.kept["full"])


@pytest.mark.parametrize("trainable", ["full", "lora", "projections"])
@pytest.mark.parametrize("case", ["gpt2", "llama", "gemma2"])
def test_what_is_trained_is_what_a_lens_trains(case: str, trainable: str) -> None:
    sizes = sizes_of(tiny_model(case).config, "float32", rank=4)
    lens = tiny_lens(tiny_lm(case), trainable=trainable, lora_rank=4)
    parts = {name: sum(p.numel() for p in part.values()) for name, part in lens.parts().items()}
    said = trained_of(sizes, Work(site_depth=2, trainable=trainable, rank=4))
    maps = parts["maps"] // 2
    unused = 0  # the encoder's copy of what stands outside the blocks: a head, positions, a norm
    if trainable == "full":
        unused = sizes.weights - sizes.in_blocks - sizes.table
    assert said == {"decoder": parts["decoder"] + maps, "encoder": parts["encoder"] + maps - unused}


def test_known_models_have_the_weights_that_are_known() -> None:
    gpt2 = sizes_of(AutoConfig.for_model("gpt2"))
    assert gpt2.weights == 124_439_808 and gpt2.sides == 12_288
    settings = {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32}
    llama = sizes_of(AutoConfig.for_model("llama", vocab_size=128_256, num_key_value_heads=8, **settings))
    assert llama.weights == 8_030_261_248 and (llama.keys, llama.heads) == (2048, 8192)


def test_kept_bytes_are_those_of_a_real_pass() -> None:
    """Of one more block, with weights, on the CPU: what autograd really saves, but for attention's own tensors."""
    kind, settings = TINY_CONFIGS["llama"]
    found = []
    for blocks in (1, 2):
        model = tiny_model("llama", num_hidden_layers=blocks)
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor, own: set[int] = own, kept: dict[int, int] = kept) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        inputs = torch.randn(1, 16, 32, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = model.base_model(inputs_embeds=inputs, use_cache=False)
        found.append(sum(kept.values()) / 16)
        del out
    sizes = sizes_of(AutoConfig.for_model(kind, **settings), "float32")
    assert sizes.kept["full"] == pytest.approx(found[1] - found[0], rel=0.1)
