"""The single-token swap is compared with the whole pass before it is first used, and refused where they differ."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import tiny_causal_lm
from tiny import VOCABULARY, padded_batch, shared_lm, tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit, FrozenLM
from consistency_lens.frozen.anatomy.swap_proof import require_exact_swap


class MiscountingConfig(LlamaConfig):
    model_type = "miscounting"


class Miscounting(LlamaForCausalLM):
    """A model whose cached passes begin to count positions anew."""

    config_class = MiscountingConfig

    def forward(
        self, input_ids: Any = None, position_ids: Any = None, past_key_values: Any = None, **more: Any
    ) -> Any:
        if past_key_values is not None and past_key_values.get_seq_length() and position_ids is not None:
            position_ids = torch.zeros_like(position_ids)
        return super().forward(input_ids=input_ids, position_ids=position_ids, past_key_values=past_key_values, **more)


def served(model_type: str) -> FrozenLM:
    model = tiny_causal_lm(model_type)
    assert isinstance(model, PreTrainedModel), model
    return FrozenLM(model, tiny_tokenizer())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cached_pass_that_is_not_the_whole_one_is_refused_with_the_gap(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MiscountingConfig(vocab_size=VOCABULARY, initializer_range=0.3, **sizes)
    lm, batch = FrozenLM(Miscounting(config).to(dtype), tiny_tokenizer()), padded_batch()
    for _ in range(2):
        with pytest.raises(BadInput, match=r"differs from the whole one by [\d.]+ of the largest logit") as caught:
            lm.prefix(batch)
        assert (caught.value.field, caught.value.value) == ("model_type", "miscounting")
        assert "whole passes" in caught.value.fix
    edited = lm.logits(batch, Edit("resid_mid.1", torch.ones(32), None))
    assert not torch.allclose(edited, lm.logits(batch))


def test_a_state_beside_keys_and_values_is_noticed() -> None:
    """Inkling's short convolutions keep one: a second swap would start from what the first left behind."""
    with pytest.raises(BadInput, match="a state that each token changes in place"):
        served("inkling_text").prefix(padded_batch())


@pytest.mark.parametrize("model_type", ["mixtral", "whisper", "bloom", "mpt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_exact_swap_is_offered(model_type: str, dtype: torch.dtype) -> None:
    lm = served(model_type)
    lm.model.to(dtype)
    require_exact_swap(lm)
    passes = []
    handle = lm.model.register_forward_hook(lambda *given: passes.append(1))
    require_exact_swap(lm)
    handle.remove()
    assert not passes, "once for each model"


def test_a_model_with_a_row_by_hand_runs_nothing_first() -> None:
    lm, passes = shared_lm("llama"), []
    handle = lm.model.register_forward_hook(lambda *given: passes.append(1))
    require_exact_swap(lm)
    handle.remove()
    assert not passes


@pytest.mark.parametrize("model_type", ["whisper", "trocr"])
def test_a_model_that_cannot_leave_out_columns_gives_the_last_ones_all_the_same(model_type: str) -> None:
    lm, batch = served(model_type), padded_batch((6, 4))
    whole = lm.logits(batch)
    assert torch.equal(lm.logits(batch, keep=2), whole[:, -2:])
    soft = Edit("embed", torch.zeros(1, lm.hidden_size), mode="prepend")
    assert torch.equal(lm.logits(batch, soft, keep=2), lm.logits(batch, soft)[:, -2:])
    value = torch.randn(2, lm.hidden_size)
    fast, slow = (
        way(Edit("resid_post.1", value)) for way in (lm.prefix(batch).logits, lambda e: lm.logits(batch, e, 1))
    )
    assert fast.shape == slow.shape
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
