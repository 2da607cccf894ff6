"""Passages as a wire learns from them: tokenised as its configuration says, in training and in use alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from datasets import Dataset, DatasetDict

from ..activations.passages import PassageCollator, Passages, PassageTokenizer, PromptFormat, context_of
from ..base.training_data import TrainingData
from ..errors import BadInput
from ..frozen import FrozenModels
from .configuration import LatentWireConfig


def prompts_of(config: LatentWireConfig) -> PromptFormat:
    """The text around prompts, by a lens's configuration."""
    names = ("preamble", "opening", "anchor", "max_answer_tokens", "answer_choice")
    given = {name: vars(config)[name] for name in names}
    own: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return PromptFormat(**own)


class WireCollator(PassageCollator):
    """As `PassageCollator`; it refuses a prompt without a token: what predicts the answer's first one would then stand
    in front of the code."""

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch = super().__call__(rows)
        for name, tokens in batch["tokens"].items():
            shortest = int(context_of(tokens)["attention_mask"].sum(1).argmin())
            if int(context_of(tokens)["attention_mask"][shortest].sum()) <= tokens["front"]:
                task = batch["task"][shortest]
                fix = f"Give {task} an opening that {name} has tokens for, or cut prompts with --lead_words 1 or more."
                why = f"no token of {name} stands between the code and the answer"
                raise BadInput("prompt", batch["prompt"][shortest], fix, why=why)
        return batch


def collator_of(config: LatentWireConfig, models: FrozenModels, preamble: str | None = None) -> WireCollator:
    """Makes batches of rows of text or ids for the receivers of a lens.

    Args:
        config: of the lens.
        models: its receivers, or some of them.
        preamble: text in front of the code, in the place of the configuration's.
    """
    prompts = prompts_of(config)
    if preamble is not None:
        prompts = replace(prompts, preamble=preamble)
    return WireCollator(PassageTokenizer.of(models, config.bos), prompts)


def passages_for(given: Any, config: LatentWireConfig, models: FrozenModels) -> Passages:
    """Passages tokenised for the models of a lens; raise where they were tokenised in another way.

    Args:
        given: as `Passages.of` takes it.
        config: of the lens.
        models: its receivers.
    """
    passages = Passages.of(given)
    prompts = prompts_of(config)
    if "tokens" not in passages.metadata:
        return passages.tokenised(models, prompts, config.bos)
    passages.require_models(models)
    record = passages.metadata["tokens"]
    known = {**PromptFormat(**record["prompts"]).to_dict(), "bos": record["bos"]}
    for name, ours in {**prompts.to_dict(), "bos": config.bos}.items():
        theirs = known[name]
        if ours != theirs:
            fix = "Give the passages as text, or make the lens with what they were tokenised with."
            raise BadInput(name, theirs, fix, why=f"the lens has {ours!r}, and use has to be as training was")
    return passages


def training_data(given: Any, eval_dataset: Any, config: LatentWireConfig, models: FrozenModels) -> TrainingData:
    """What a trainer asks of passages.

    Args:
        given: as `passages_for` takes it.
        eval_dataset: passages whose validation split is held out, rows of text or of ids, several of either by name,
            or None for the validation split of `given`.
        config: of the lens.
        models: its receivers.
    """
    if isinstance(given, Dataset) and isinstance(eval_dataset, Dataset):  # no passage may stand in both
        given, eval_dataset = DatasetDict({"train": given, "validation": eval_dataset}), None
    passages = passages_for(given, config, models)
    train = passages.splits["train"]

    def held_out(chosen: Any) -> Any:
        if isinstance(chosen, Mapping) and not isinstance(chosen, (Passages, DatasetDict)):
            return {name: held_out(each) for name, each in chosen.items()}
        if isinstance(chosen, Dataset) and "row" not in chosen.column_names:
            return passages_for(chosen, config, models).splits["train"]
        if isinstance(chosen, Dataset):
            return chosen
        return passages_for(chosen, config, models).splits.get("validation")

    watched = passages.splits.get("validation") if eval_dataset is None else held_out(eval_dataset)
    return TrainingData(
        train, collator_of(config, models), watched, passages.metadata, lambda: str(train[0]["passage"])
    )
