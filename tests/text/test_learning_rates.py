"""The warm start has a learning rate of its own under every scheduler that transformers offers, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lens_runs import arguments, trainer_of
from transformers.trainer_utils import SchedulerType

from consistency_lens.errors import BadInput

WARM, STEPS, RATE, WARM_RATE = 4, 12, 1e-4, 1e-2
LOOKS_BACK = ("reduce_lr_on_plateau", "greedy")
NEEDED: dict[str, dict[str, Any]] = {
    "warmup_stable_decay": {"num_decay_steps": 2},
    "cosine_with_min_lr": {"min_lr": 1e-5},
    "cosine_warmup_with_min_lr": {"min_lr": 1e-5},
}
KINDS = [kind.value for kind in SchedulerType]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in LOOKS_BACK])
def test_the_warm_start_has_a_rate_of_its_own(tmp_path: Path, kind: str) -> None:
    given = {"lr_scheduler_type": kind, "lr_scheduler_kwargs": NEEDED.get(kind, {}), "warmup_steps": 2}
    rates = {"learning_rate": RATE, "warm_learning_rate": WARM_RATE}
    trainer = trainer_of(tmp_path, max_steps=STEPS, warm_steps=WARM, encoder_learning_rate=2 * RATE, **given, **rates)
    optimizer = trainer.create_optimizer()
    scheduler, seen = trainer.create_scheduler(STEPS), []
    for _ in range(STEPS):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    for groups in seen[:WARM]:
        assert max(groups) == pytest.approx(min(groups)) and 0.05 * WARM_RATE <= groups[0] <= WARM_RATE * (1 + 1e-9)
    alone = trainer_of(tmp_path, max_steps=STEPS - WARM, warm_start="none", encoder_learning_rate=2 * RATE, **given,
                       learning_rate=RATE)  # fmt: skip
    optimizer = alone.create_optimizer()
    scheduler = alone.create_scheduler(STEPS - WARM)
    for groups in seen[WARM:]:
        assert groups == pytest.approx([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("kind", LOOKS_BACK)
def test_what_follows_the_evaluations_is_refused_for_a_warm_start(tmp_path: Path, kind: str) -> None:
    with pytest.raises(BadInput, match=rf"lr_scheduler_type='{kind}': it follows the evaluations"):
        arguments(tmp_path, lr_scheduler_type=kind)
    given = {"eval_strategy": "steps", "eval_steps": 1, "lr_scheduler_type": kind}
    trainer = trainer_of(tmp_path, warm_start="none", max_steps=2, **given)
    trainer.train()
    assert trainer.state.global_step == 2
