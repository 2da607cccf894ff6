"""Out of memory: with `auto_find_batch_size` a smaller batch begins as if it had been the first; otherwise it is said
what was short of memory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lens_runs import PROMPT, SITE, arguments, changed, copies, tiny_lens, tiny_rows, trainer_of
from tiny import tiny_lm

from consistency_lens.base.engines.engine import Engine
from consistency_lens.base.robust.memory import MemoryShortInEvaluation
from consistency_lens.base.saving.checkpoint import checkpoints
from consistency_lens.errors import BadInput
from consistency_lens.text.modeling import ConsistencyLens
from consistency_lens.text.trainer import ConsistencyLensTrainer

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB."
GIVEN: dict[str, Any] = {"max_steps": 4, "ema_decay": 0.9, "save_strategy": "steps", "save_steps": 2}


class Hungry(ConsistencyLens):
    """Its memory holds so many rows once it has made some passes; in an evaluation, so many."""

    room, room_in_evaluation, patience = 0, 10**6, 0
    passes = 0

    def forward(self, activations: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.passes += 1
        if self.passes > self.patience and len(activations) > self.room:
            raise torch.OutOfMemoryError(FULL)
        return super().forward(activations, *args, **kwargs)

    def compress(self, batch: Any, **kwargs: Any) -> Any:
        if len(batch["input_ids"]) > self.room_in_evaluation:
            raise torch.OutOfMemoryError(FULL)
        return super().compress(batch, **kwargs)


def hungry(folder: Path, room: int, patience: int = 0, **changes: Any) -> ConsistencyLensTrainer:
    frozen = tiny_lm()
    lens = Hungry.from_subject(frozen, SITE, prompt=PROMPT, code_length=5)
    lens.room, lens.patience = room, patience
    given = {"auto_find_batch_size": True, "per_device_train_batch_size": 6}
    return ConsistencyLensTrainer(lens, arguments(folder, **(GIVEN | given | changes)), tiny_rows(), frozen=frozen)


def logged(trainer: ConsistencyLensTrainer) -> list[dict[str, float]]:
    clocks = ("runtime", "per_second", "total_flos")
    return [{k: v for k, v in entry.items() if not k.endswith(clocks)} for entry in trainer.state.log_history]


@pytest.mark.parametrize(
    ("patience", "changes"),
    [
        (3, {"delta": "grad"}),
        pytest.param(0, {}, marks=pytest.mark.slow),
        pytest.param(6, {"gradient_accumulation_steps": 2}, marks=pytest.mark.slow),
    ],
    ids=["behind the warm start", "at once", "in the midst of a step"],
)
def test_a_smaller_batch_begins_as_if_it_had_been_the_first(
    tmp_path: Path, patience: int, changes: dict[str, Any]
) -> None:
    """Two rollouts to a row: ten texts are five rows."""
    trainer = hungry(tmp_path / "found", 10, patience, **changes)
    trainer.train()
    undisturbed = trainer_of(tmp_path / "given", **(GIVEN | changes | {"per_device_train_batch_size": 5}))
    undisturbed.train()
    assert logged(trainer) == logged(undisturbed)
    assert not changed(trainer.trainable, copies(undisturbed.trainable))
    assert trainer.average is not None and undisturbed.average is not None
    for name, average in undisturbed.average.averages.items():
        assert torch.equal(trainer.average.averages[name], average), name
    assert trainer.reference.keys() == undisturbed.reference.keys() and trainer.reference
    assert trainer.meter.cost.rows == undisturbed.meter.cost.rows
    assert trainer.meter.cost.sessions == 1


def test_what_an_attempt_has_saved_goes_with_it(tmp_path: Path) -> None:
    """Else a run that is killed now would go on from weights of the attempt that failed."""
    trainer = hungry(tmp_path, 10, patience=3, save_steps=3)
    trainer.train()
    assert [folder.name for folder in checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-4"]
    assert trainer.state.train_batch_size == 5
    shutil.rmtree(tmp_path / "checkpoint-4")
    again = hungry(tmp_path, 10, max_steps=4)
    again.train(resume_from_checkpoint=True)
    undisturbed = trainer_of(tmp_path / "given", **GIVEN, per_device_train_batch_size=5)
    undisturbed.train()
    losses, losses_too = ([e["loss"] for e in t.state.log_history if "loss" in e] for t in (again, undisturbed))
    assert losses == losses_too


def test_where_no_batch_fits_it_is_still_an_error_of_memory(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError, match=r"CUDA out of memory.*batches of 2 rows"):
        hungry(tmp_path, 1, per_device_train_batch_size=2).train()


def test_an_evaluation_without_memory_does_not_shrink_the_batches_of_training(tmp_path: Path) -> None:
    trainer = hungry(tmp_path, 10**6, eval_strategy="steps", eval_steps=2)
    trainer.lens.room_in_evaluation = 2
    with pytest.raises(MemoryShortInEvaluation, match=r"CUDA out of memory.*in an evaluation"):
        trainer.train()
    assert trainer.state.train_batch_size == 6


def test_several_processes_refuse_it(tmp_path: Path) -> None:
    lm = tiny_lm()
    with pytest.raises(BadInput, match=r"auto_find_batch_size=True: under ddp the other processes would wait"):
        Engine("ddp", 2).require(tiny_lens(lm), lm, arguments(tmp_path, auto_find_batch_size=True))
