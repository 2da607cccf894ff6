"""`--torch_compile` compiles blocks, which hooks reach, and not the lens as a whole; once, whatever the lengths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import DynamoBackend
from extracting import extract_to, random_texts
from lens_runs import WARM, arguments, tiny_lens, trainer_of
from tiny import tiny_lm
from transformers import TrainerCallback

from consistency_lens.frozen import FrozenLM
from consistency_lens.frozen.anatomy.parts import blocks_of
from consistency_lens.text.trainer import ConsistencyLensTrainer

BY_DYNAMO = {"torch_compile": True, "torch_compile_backend": "eager"}


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("trainable", ["full", "lora"])
def test_all_blocks_are_compiled_and_nothing_else(trainable: str, tmp_path: Path) -> None:
    frozen = tiny_lm()
    lens = tiny_lens(frozen, trainable=trainable)
    trainer = trainer_of(tmp_path, frozen, lens, **BY_DYNAMO)
    assert trainer.accelerator.state.dynamo_plugin.backend == DynamoBackend.NO
    models = [frozen.model, lens.decoder.lm, lens.encoder.lm]
    assert all(block._compiled_call_impl is not None for model in models for block in blocks_of(model))
    assert all(model._compiled_call_impl is None for model in (*models, lens))


def test_without_the_flag_nothing_is_compiled(tmp_path: Path) -> None:
    frozen = tiny_lm()
    trainer_of(tmp_path, frozen)
    assert all(block._compiled_call_impl is None for block in blocks_of(frozen.model))


class Graphs(TrainerCallback):
    """How many graphs there are, and how long the contexts were, at the end of each step."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        torch._dynamo.utils.counters.clear()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.mark.slow
def test_nothing_is_compiled_anew_for_other_lengths_and_losses_are_the_same(tmp_path: Path) -> None:
    texts = random_texts(30, shortest=8, longest=20)
    rows, losses, widths = extract_to(tmp_path / "rows", texts, subject(), continuation_length=2), {}, set()

    def watched(batch: Any) -> Any:
        widths.add(batch["input_ids"].shape[1])
        return batch

    for name, settings in (("plain", {}), ("compiled", BY_DYNAMO)):
        frozen, graphs = subject(), Graphs()
        given = arguments(tmp_path, max_steps=WARM + 4, kl_horizon=2, eval_strategy="no", **settings)
        trainer = ConsistencyLensTrainer(
            tiny_lens(frozen, trainable="projections"), given, rows, callbacks=[graphs], frozen=frozen
        )
        collate = trainer.data_collator
        trainer.data_collator = lambda batch, collate=collate: watched(collate(batch))
        trainer.train()
        losses[name] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    first_of_each_stage = [graphs.counts[0], graphs.counts[WARM]]
    assert 0 < first_of_each_stage[0] < first_of_each_stage[1]
    assert graphs.counts == [first_of_each_stage[0]] * WARM + [first_of_each_stage[1]] * 4
    assert len(widths) >= 3
    assert losses["compiled"] == pytest.approx(losses["plain"], rel=1e-3)


def subject() -> FrozenLM:
    return tiny_lm(num_hidden_layers=2)
