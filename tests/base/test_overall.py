"""What a training says of itself as a whole does not depend on how often it was started."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lens_runs import trainer_of

from consistency_lens.base.watching.overall import mean_loss


def test_the_mean_loss_of_a_resumed_training_is_that_of_all_its_steps(tmp_path: Path) -> None:
    given = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    once = trainer_of(tmp_path, **given)
    whole = once.train()
    losses = [entry["loss"] for entry in once.state.log_history if "loss" in entry]
    assert len(losses) == 3 and whole.training_loss == pytest.approx(sum(losses) / 3)
    for step in (1, 3):
        resumed = trainer_of(tmp_path, **given).train(str(tmp_path / f"checkpoint-{step}"))
        assert resumed.training_loss == whole.training_loss
        assert resumed.metrics["train_loss"] == whole.training_loss == whole.metrics["train_loss"]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=12), st.data())
def test_entries_weigh_as_many_steps_as_they_stand_for(losses: list[float], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(losses)))) | {len(losses)})
    history, last = [{"step": 0, "eval_loss": 99.0}], 0
    for cut in cuts:
        history.append({"step": cut, "loss": sum(losses[last:cut]) / (cut - last)})
        last = cut
    assert mean_loss(history, 1e9) == pytest.approx(sum(losses) / len(losses), abs=1e-9)
    assert mean_loss(history[:1], 0.5) == 0.5
