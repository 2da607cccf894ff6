"""The cost of a step, pass by pass, against what torch counts while the step runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lens_runs import first_batch, stirred, tiny_lens, trainer_of
from tiny import tiny_lm
from torch.utils.flop_counter import FlopCounterMode

from consistency_lens.base.watching.flops import Pass, Size
from consistency_lens.frozen import FrozenLM

TOLERANCE = 0.1  # the first block's inputs need no gradient, and maps are not counted
WAYS: list[dict[str, Any]] = [
    {},
    {"estimator": "parallel", "lm_weight": "0.1"},
    {"estimator": "sequential"},
    {"ground_weight": "0.1", "lm_weight": "0.1", "rollouts": 3},
    {"kl_weight": "0"},
    {"anchor": "replay"},
    {"quote": True},
]


def plain_attention(case: str = "llama") -> FrozenLM:
    """torch does not count what its fused attention does on a CPU."""
    frozen = tiny_lm(case)
    frozen.model.set_attn_implementation("eager")
    return frozen


@pytest.mark.parametrize("settings", WAYS, ids=str)
@pytest.mark.parametrize("trainable", ["full", "lora"])
@pytest.mark.parametrize("warm", [False, True])
def test_it_is_what_torch_counts(trainable: str, settings: dict[str, Any], warm: bool, tmp_path: Path) -> None:
    frozen = plain_attention()
    lens = stirred(tiny_lens(frozen, trainable=trainable, code_length=12))
    trainer = trainer_of(tmp_path, frozen, lens, kl_horizon=3, max_steps=50, warm_steps=40, **settings)
    batch, trainer.state.max_steps = first_batch(trainer), trainer.args.max_steps
    trainer.state.global_step = 0 if warm else trainer.args.num_warm_steps
    if not warm:
        trainer.leave_warm_start()
    if warm or settings:
        trainer.texts.of(batch, trainer.args.max_steps)  # made once for all rows, and kept
    with FlopCounterMode(display=False) as counter:
        trainer.compute_loss(lens, batch).backward()
    assert trainer.floating_point_ops(batch) == pytest.approx(counter.get_total_flops(), rel=TOLERANCE)


def test_gpt2_has_products_of_another_kind(tmp_path: Path) -> None:
    model = plain_attention("gpt2").model
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.ones(3, 7, dtype=torch.long), logits_to_keep=torch.arange(5, 7), use_cache=False)
    assert Size.of(model).forward(Pass(3, 7, 2)) == pytest.approx(counter.get_total_flops(), rel=0.01)
