"""What the tests of the toy family share: two models, a few passages, short runs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from passage_models import passage_models
from short_runs import SHORT
from toy_family import ToyArguments, ToyLens, ToyTrainer

from consistency_lens.activations.passages import Passages
from consistency_lens.frozen import FrozenLM, FrozenModels

STEPS = 6


@cache
def toy_models() -> FrozenModels:
    """Copies of the shared models, which go by names of their own here."""
    shared = passage_models()
    found = []
    for name in ("words", "bytes"):
        lm = shared[name]
        found.append(FrozenLM(lm.model, lm.tokenizer, model_id=lm.model_id, name=name))
    return FrozenModels(found)


@cache
def toy_passages() -> Passages:
    rows = [
        {
            "passage": f"w{i} w{(7 * i) % 50} w{i + 1} w{i + 2} w{(3 * i) % 50}",
            "prompt": f"w{i}",
            "answer": f"w{i + 1}",
        }
        for i in range(60)
    ]
    given = Passages.from_dataset(Dataset.from_list(rows), validation_fraction=0.2, test_fraction=0.2)
    return given.tokenised(toy_models())


def toy_lens(rank: int = 4) -> ToyLens:
    models = toy_models()  # whose own weights are drawn at the first call
    torch.manual_seed(0)
    return ToyLens.from_models(models, rank=rank)


def toy_arguments(folder: Path | str, **changes: Any) -> ToyArguments:
    return ToyArguments(**{"output_dir": str(folder), "max_steps": STEPS, **SHORT, **changes})


def toy_trainer(folder: Path | str, lens: ToyLens | None = None, **changes: Any) -> ToyTrainer:
    lens = lens or toy_lens()
    return ToyTrainer(lens, toy_arguments(folder, **changes), toy_passages(), frozen=toy_models())
