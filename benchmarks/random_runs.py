"""A lens on a random model with random contexts, ready for a training step: nothing is downloaded or saved."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from datasets import Dataset, DatasetDict

from consistency_lens.activations import Activations
from consistency_lens.frozen import FrozenLM
from consistency_lens.text.arguments import ConsistencyLensArguments
from consistency_lens.text.modeling import ConsistencyLens
from consistency_lens.text.trainer import ConsistencyLensTrainer

SITE = "resid_post.1/3"


def random_rows(frozen: FrozenLM, rows: int, context: int, horizon: int) -> Activations:
    """Random contexts of one length, a document each, with what the model really computes at their last token."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(frozen.vocab_size, (rows, context + horizon), generator=generator)
    site = str(frozen.site(SITE))
    contexts = ids[:, :context]
    last = torch.full((rows, 1), context - 1)
    vectors = torch.cat(
        [
            frozen.read({"input_ids": contexts[i : i + 8]}, site, last[i : i + 8].to(frozen.device))[site][:, 0].cpu()
            for i in range(0, rows, 8)
        ]
    ).float()
    columns = {"input_ids": contexts.tolist(), "continuation_ids": ids[:, context:].tolist()}
    columns |= {"position": [context - 1] * rows, "doc_id": list(range(rows)), site: vectors.tolist()}
    statistics = {
        f"{site}.mean": vectors.double().mean(0).numpy(),
        f"{site}.variance": vectors.double().var(0).numpy(),
    }
    metadata = {
        "provenance": frozen.provenance(site).to_dict(),
        "highest_token_id": int(ids.max()),
        "dtype": "float32",
    }
    return Activations(DatasetDict(train=Dataset.from_dict(columns)), metadata, statistics)


def trainer_of(lens: ConsistencyLens, frozen: FrozenLM, rows: Activations, **settings: Any) -> ConsistencyLensTrainer:
    """At a step of the functional stage, with a decoder to be measured against."""
    on_cpu = frozen.device.type == "cpu"
    arguments = ConsistencyLensArguments(
        output_dir=tempfile.gettempdir(), report_to="none", use_cpu=on_cpu, disable_tqdm=True, max_steps=10,
        save_strategy="no", warm_start="none", warm_steps=0, per_device_train_batch_size=len(rows.splits["train"]),
        **settings,
    )  # fmt: skip
    trainer = ConsistencyLensTrainer(lens, arguments, rows, frozen=frozen)
    trainer.current_gradient_accumulation_steps = 1
    trainer.remember_decoder()
    trainer.state.global_step = 1
    return trainer


def batch_of(trainer: ConsistencyLensTrainer) -> dict[str, Any]:
    """All rows."""
    assert isinstance(trainer.train_dataset, Dataset)
    return trainer._prepare_inputs(trainer.data_collator(list(trainer.train_dataset)))
