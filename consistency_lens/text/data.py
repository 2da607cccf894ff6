"""The data of a `ConsistencyLensTrainer`: contexts up to P with the activation at P, stored, streamed or given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from datasets import Dataset, IterableDataset

from ..activations import Activations, survey
from ..base.saving.lens_card import example_of
from ..base.training_data import TrainingData
from ..errors import BadInput
from ..frozen import FrozenLM
from .arguments import ConsistencyLensArguments


def open_contexts(given: Any, eval_dataset: Any, frozen: FrozenLM, sites: Sequence[str]) -> Activations:
    """Whatever a trainer may be given, as activations of this model at these sites; `eval_dataset` may be several sets
    by name, of which the first takes the place of the validation split."""
    several = dict(eval_dataset) if isinstance(eval_dataset, Mapping) else {}
    if "train" in several:
        fix = "Leave it out: the best checkpoint is chosen by the first set."
        raise BadInput("eval_dataset", "train", fix, why="these are the rows that are trained on")
    one = next(iter(several.values()), None) if several else eval_dataset
    activations = Activations.of(given, frozen, sites, one)
    activations.require_model(frozen)
    activations.provenance.at(*sites)
    for rows in list(several.values())[1:]:
        survey(rows, frozen, list(sites), "eval_dataset")
    return activations


def training_data(
    activations: Activations,
    eval_dataset: Any,
    frozen: FrozenLM,
    sites: Sequence[str],
    args: ConsistencyLensArguments,
) -> TrainingData:
    """The rows with the columns that a batch is made of, as tensors."""
    _require_rows(activations, args)
    splits = {name: _formatted(split, sites) for name, split in activations.splits.items()}
    held_out: Any = splits["validation"] if len(splits.get("validation", [])) else None
    if isinstance(eval_dataset, Mapping) and eval_dataset:
        held_out = {name: _formatted(rows, sites) for name, rows in eval_dataset.items()}
    pad_id = frozen.tokenizer.pad_token_id
    collate = activations.collator(pad_id if pad_id is not None else 0, sites=sites)
    data = TrainingData(
        splits["train"],
        collate if len(sites) == 1 else SiteCollator(collate, len(sites)),
        held_out,
        activations.metadata,
        lambda: example_of(data.train if data.watched is None else data.watched, frozen.tokenizer),
    )
    return data


class SiteCollator:
    """Makes batches whose rows are each about one of several sites: which, is a function of document and position, so
    that rows that are looked at again are looked at again at the same site. A training deals anew in each step.

    Args:
        collate: makes batches with the activations of all sites.
        sites: how many.
    """

    def __init__(self, collate: Callable[[Any], dict[str, Any]], sites: int) -> None:
        self.collate, self.sites = collate, sites

    def __call__(self, rows: Any) -> dict[str, Any]:
        batch = self.collate(rows)
        return {**batch, "site": (batch["doc_id"] + batch["position"]) % self.sites}


def _formatted(split: Any, sites: Sequence[str]) -> Any:
    wanted = ["input_ids", "continuation_ids", "position", "doc_id", *sites]
    # Only rows that somebody made may lack it; a stream that nobody described does not say so.
    columns = [name for name in wanted if name != "continuation_ids" or name in _columns_of(split)]
    if isinstance(split, IterableDataset):
        return split.select_columns(columns).with_format("torch")
    return split.with_format("torch", columns=columns)


def _columns_of(split: Dataset | IterableDataset) -> list[str]:
    return list(split.column_names or next(iter(split.take(1)), {}))


def _require_rows(activations: Activations, args: ConsistencyLensArguments) -> None:
    """Raise where the rows lack what the training will ask of them."""
    train: Any = activations.splits["train"]
    if isinstance(train, IterableDataset):
        _require_end(activations, args)
    elif args.dataloader_drop_last and (rows := len(train)) < args.train_batch_size * args.world_size:
        fix = f"Use at most {rows // args.world_size}, or extract more rows."
        raise BadInput("per_device_train_batch_size", args.per_device_train_batch_size, fix, f"there are {rows} rows")
    longest = activations.metadata.get("rules", {}).get("continuation_length", args.kl_horizon)
    if args.kl_horizon > longest:
        fix = f"Use at most {longest}, or extract with a larger continuation_length."
        raise BadInput("kl_horizon", args.kl_horizon, fix)


def _require_end(activations: Activations, args: ConsistencyLensArguments) -> None:
    """A stream has no length: the run needs an end, and held-out rows to be evaluated and described by."""
    if args.max_steps <= 0:
        raise BadInput("max_steps", args.max_steps, "Say how many steps to train: a stream has no length.")
    if not len(activations.splits.get("validation", [])):
        fix = "Give held-out rows as eval_dataset, or extract with a validation_fraction above 0."
        raise BadInput("eval_dataset", None, fix, why="a stream is not looked at twice")
