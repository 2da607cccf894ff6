"""Batches of passages go through transformers' Trainer as they are: its sampler, its resume, two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset
from passage_models import passage_models
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from consistency_lens.activations.passages import Passages
from consistency_lens.frozen import Edit
from consistency_lens.objectives import answer_nll_of

NAMES = ("words", "bytes")
MODELS = {name: passage_models()[name] for name in NAMES}


class SoftTokens(nn.Module):
    """Two soft tokens for each model, the same for every passage."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {name: lm.hidden_size for name, lm in MODELS.items()}
        self.codes = nn.ParameterDict({name: nn.Parameter(torch.full((2, size), 0.1)) for name, size in sizes.items()})

    def forward(self, tokens: dict[str, Any], **texts: Any) -> dict[str, Tensor]:
        losses = []
        for name, batch in tokens.items():
            ids, mask = batch["answer_ids"], batch["answer_mask"]
            edit = Edit("embed", self.codes[name], batch["bos"], "prepend")
            logits = MODELS[name].logits(batch["bare"], edit, keep=ids.shape[1])
            losses.append(answer_nll_of(logits, ids, mask).mean())
        return {"loss": torch.stack(losses).mean()}


@pytest.fixture(scope="module")
def passages() -> Passages:
    rows = [{"passage": f"w{i} w{i + 1} w{i + 2}", "prompt": f"w{i}", "answer": f"w{i + 1}"} for i in range(40)]
    return Passages.from_dataset(Dataset.from_list(rows)).tokenised(MODELS)


def trained(
    passages: Passages, folder: Path, steps: int, resume: bool = False
) -> tuple[dict[str, Tensor], list[float]]:
    args = TrainingArguments(
        str(folder),
        per_device_train_batch_size=4,
        max_steps=steps,
        save_steps=3,
        logging_steps=1,
        learning_rate=0.05,
        lr_scheduler_type="constant",
        remove_unused_columns=False,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    model = SoftTokens()
    collate = passages.collator(MODELS)
    trainer = Trainer(model, args, train_dataset=passages.splits["train"], data_collator=collate)
    trainer.train(resume_from_checkpoint=resume or None)
    losses = [each["loss"] for each in trainer.state.log_history if "loss" in each]
    return {name: value.detach().clone() for name, value in model.state_dict().items()}, losses


def test_a_training_that_goes_on_ends_where_an_uninterrupted_one_does(passages: Passages, tmp_path: Path) -> None:
    whole, losses = trained(passages, tmp_path / "whole", 6)
    assert min(losses) < losses[0] - 0.2, "it learns"
    trained(passages, tmp_path / "parts", 3)
    again, later = trained(passages, tmp_path / "parts", 6, resume=True)
    assert later == losses
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_two_processes_share_the_rows_of_one(passages: Passages) -> None:
    def rows(processes: int, index: int) -> list[list[int]]:
        order = torch.Generator().manual_seed(5)
        train = passages.splits["train"]
        loader = DataLoader(train, 4, shuffle=True, generator=order, collate_fn=passages.collator(MODELS))
        shared = prepare_data_loader(
            loader, torch.device("cpu"), num_processes=processes, process_index=index, put_on_device=True
        )
        return [batch["row"].tolist() for batch in shared]

    alone, first, second = rows(1, 0), rows(2, 0), rows(2, 1)
    taken = [batch for pair in zip(first, second, strict=True) for batch in pair]
    full = len(alone) // 2 * 2 - 2  # at the end, accelerate fills up what is uneven
    assert taken[:full] == alone[:full] and full >= 4
    assert {row for batch in taken for row in batch} == set(range(len(passages.splits["train"])))
