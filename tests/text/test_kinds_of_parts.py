"""Two parts of different kinds on one frozen model: neither takes from the other what it needs to learn."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from lens_runs import tiny_lens
from tiny import tiny_lm

from consistency_lens.errors import BadInput
from consistency_lens.text.configuration import TRAINABLE
from consistency_lens.text.modeling import ConsistencyLens


@pytest.mark.parametrize("kinds", list(itertools.product(TRAINABLE, repeat=2)), ids="-".join)
def test_each_part_can_learn_and_the_subject_cannot(kinds: tuple[str, str]) -> None:
    frozen = tiny_lm()
    lens = tiny_lens(frozen, trainable=kinds[0], encoder_trainable=kinds[1])
    for kind, part in zip(kinds, ("decoder", "encoder"), strict=True):
        own = lens.parts()[part]
        assert bool(own) is (kind != "projections")
        assert all(parameter.requires_grad for parameter in own.values())
        assert kind == "lora" or not any("lora" in name for name in own)
    of_lens = {id(p) for part in lens.parts().values() for p in part.values()}
    assert not any(p.requires_grad for p in frozen.model.parameters() if id(p) not in of_lens)


@pytest.mark.parametrize("kind", TRAINABLE)
def test_weights_go_from_one_lens_to_another_in_a_state_dict(kind: str) -> None:
    """Those that both parts share, too, of which it holds one."""
    one, other = (tiny_lens(tiny_lm(), trainable=kind) for _ in range(2))
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(1.0)
    other.load_state_dict(one.state_dict())
    found = dict(other.named_parameters())
    assert all(torch.equal(parameter, found[name]) for name, parameter in one.named_parameters())
    assert not other.load_state_dict({}, strict=False).unexpected_keys


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"encoder_trainable": "some"}, "encoder_trainable='some'. Use one of projections, lora, full"),
        ({"trainable": "lora", "lora_rank": 0}, "lora_rank=0"),
        ({"trainable": "lora", "lora_alpha": -1}, "lora_alpha=-1"),
    ],
)
def test_a_kind_that_is_none_is_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInput) as caught:
        tiny_lens(tiny_lm(), **settings)
    assert named in str(caught.value)


def test_there_is_no_second_layer_to_inject_behind() -> None:
    frozen = tiny_lm(num_hidden_layers=1)
    with pytest.raises(BadInput, match="behind the second layer"):
        ConsistencyLens.from_subject(frozen, "resid_post.0", injection="residual")
    assert ConsistencyLens.from_subject(frozen, "resid_post.0").config.injection == "embedding"


def test_prompt_and_text_have_to_fit_into_what_the_subject_reads() -> None:
    frozen = tiny_lm(max_position_embeddings=16)
    assert tiny_lens(frozen, code_length=11).config.code_length == 11
    with pytest.raises(
        BadInput, match=r"code_length=12: the model takes 16 tokens, and the prompt has 5\. Use at most 11"
    ):
        tiny_lens(frozen, code_length=12)


@pytest.mark.parametrize(("kernel", "taken"), [("eager", "eager"), ("flash_attention_2", "sdpa")])
def test_clones_attend_as_the_subject_does_where_their_dtype_allows_it(
    kernel: str, taken: str, tmp_path: Path
) -> None:
    """They are in float32, which FlashAttention does not take. The same after saving and loading."""
    frozen = tiny_lm()
    frozen.model.config._attn_implementation = kernel
    lens = tiny_lens(frozen)
    lens.save_pretrained(tmp_path)
    for each in (lens, ConsistencyLens.from_pretrained(tmp_path, frozen)):
        for part in (each.decoder, each.encoder):
            assert part.lm.config._attn_implementation == taken and part.lm.dtype == torch.float32
    assert frozen.attention == kernel
