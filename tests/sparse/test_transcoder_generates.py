"""A model goes on to speak with a transcoder in the place of its MLPs: token by token what whole passes say."""

from __future__ import annotations

import pytest
import torch
from tiny import padded_batch, shared_lm
from transcoders import small_lens


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("use_cache", [True, False])
def test_new_tokens_are_replaced_like_those_of_the_prompt(masked: bool, use_cache: bool) -> None:
    lens, frozen = small_lens(), shared_lm("llama")
    batch = {name: padded_batch((9, 6, 7))[name] for name in ("input_ids", "attention_mask")}
    if not masked:
        batch = {"input_ids": batch["input_ids"]}
    found = frozen.generate(batch, lens.replaced(batch), max_new_tokens=5, min_new_tokens=5, use_cache=use_cache)
    longer = dict(batch)
    for step in range(5):
        ids = frozen.logits(longer, lens.replaced(longer), keep=1)[:, 0].argmax(-1)
        assert torch.equal(found.ids[:, step], ids)
        longer["input_ids"] = torch.cat([longer["input_ids"], ids.unsqueeze(1)], 1)
        if masked:
            longer["attention_mask"] = torch.nn.functional.pad(longer["attention_mask"], (0, 1), value=1)
    clean = frozen.generate(batch, max_new_tokens=5, min_new_tokens=5).ids
    assert not torch.equal(clean, found.ids)
