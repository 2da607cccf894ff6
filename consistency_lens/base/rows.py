"""What a training asks of the rows that it is given, stored or streamed."""

from __future__ import annotations

from typing import Any

from datasets import IterableDataset

from ..errors import BadInput
from .arguments import LensTrainingArguments


def _require_end(activations: Any, args: LensTrainingArguments) -> None:
    """A stream has no length: the run needs an end, and held-out rows to be judged and described by."""
    if args.max_steps <= 0:
        raise BadInput("max_steps", args.max_steps, "Say how many steps to train: a stream has no length.")
    if not len(activations.splits.get("validation", [])):
        fix = "Give held-out rows as eval_dataset, or extract with a validation_fraction above 0."
        raise BadInput("eval_dataset", None, fix, why="a stream is not looked at twice")


def _columns_of(split: Any) -> list[str]:
    return list(split.column_names or next(iter(split.take(1)), {}))


def formatted(split: Any, site: str) -> Any:
    """The columns that a batch is made of, as tensors."""
    wanted = ["input_ids", "continuation_ids", "position", "doc_id", site]
    # Only rows that somebody made may lack it; a stream that nobody described does not say so.
    columns = [name for name in wanted if name != "continuation_ids" or name in _columns_of(split)]
    if isinstance(split, IterableDataset):
        return split.select_columns(columns).with_format("torch")
    return split.with_format("torch", columns=columns)


def require_rows(activations: Any, args: LensTrainingArguments) -> None:
    """Raise where the rows lack what the training will ask of them."""
    train: Any = activations.splits["train"]
    if isinstance(train, IterableDataset):
        _require_end(activations, args)
    elif args.dataloader_drop_last and (rows := len(train)) < args.train_batch_size * args.world_size:
        fix = f"Use at most {rows // args.world_size}, or extract more rows."
        raise BadInput("per_device_train_batch_size", args.per_device_train_batch_size, fix, f"there are {rows} rows")
    held = activations.metadata.get("rules", {}).get("continuation_length", args.kl_horizon)
    if args.kl_horizon > held:
        fix = f"Use at most {held}, or extract with a larger continuation_length."
        raise BadInput("kl_horizon", args.kl_horizon, fix)
