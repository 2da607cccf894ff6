"""One row for each family: tiny models, a lens, data, short runs. Every test of the spine is run over all rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lens_runs
import torch
import toy_runs
import transcoder_runs
import wire_runs
from datasets import Dataset, DatasetDict
from short_runs import SHORT
from tiny import shared_lm, tiny_lm
from toy_family import FAMILY as TOY

from consistency_lens.activations import Activations
from consistency_lens.auto import FAMILIES, Family
from consistency_lens.base.modeling import LensModel
from consistency_lens.base.trainer import LensTrainer
from consistency_lens.frozen import FrozenLM, FrozenModels

STEPS = 4
RUN: dict[str, Any] = {**SHORT, "max_steps": STEPS}
SAVING = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "ema_decay": 0.9}


@dataclass(frozen=True)
class Row:
    """
    Args:
        name: of the family.
        family: as the one table of families has it.
        models: what its lens is for.
        strangers: other models that it is not for.
        lens: one that is not trained yet, the same at each call.
        data: what its trainer learns from.
        saved: the same in a folder, which is made once.
        plain: the same as somebody else may have made it, in memory.
        half: rows of half a batch.
        noisy: its noise is of a batch's number, and not of a row: two processes draw what one draws in two turns.
        idle: it trains some parts in some steps, and under ZeRO others go on by their momentum meanwhile.
        together: arguments of its runs in several processes, which an engine takes.
        run: arguments of its short runs, beside those of all.
        controls: some that its report has to have.
        zero, whole: the controls at which nothing and everything is recovered.
    """

    name: str
    family: Family
    models: Callable[[], Any]
    strangers: Callable[[], Any]
    lens: Callable[[], LensModel]
    data: Callable[[], Any]
    saved: Callable[[Path], Path]
    plain: Callable[[], DatasetDict]
    controls: tuple[str, ...]
    zero: str
    whole: str = "self"
    half: int = 2
    noisy: bool = False
    idle: bool = False
    together: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)

    def trainer(
        self, folder: Path | str, data: Any = None, lens: Any = None, frozen: Any = None, **changes: Any
    ) -> LensTrainer:
        """A short run; what has the name of an argument of the trainer goes to the trainer."""
        own = {name: changes.pop(name) for name in ("eval_dataset", "callbacks", "model_init") if name in changes}
        args = self.family.load("arguments")(output_dir=str(folder), **(RUN | dict(self.run) | changes))
        made = {} if "model_init" in own else {"model": lens or self.lens()}
        given = self.data() if data is None else data
        return self.family.load("trainer")(
            **made, args=args, train_dataset=given, frozen=frozen or self.models(), **own
        )

    def batch(self) -> dict[str, Any]:
        """A few held-out rows, as the trainer has them."""
        trainer = self.trainer("nowhere")
        return next(iter(trainer.batches(4)))


def _plain_contexts(activations: Activations) -> DatasetDict:
    splits = activations.splits
    return DatasetDict({n: Dataset.from_list(s.to_list(), features=s.features) for n, s in splits.items()})


def _plain_passages(passages: Any) -> DatasetDict:
    columns = ["passage", "prompt", "answers"]
    return DatasetDict({n: Dataset.from_list(s.select_columns(columns).to_list()) for n, s in passages.splits.items()})


def _same_names(models: FrozenModels) -> FrozenModels:
    """Other models under the names of these."""
    strange = [tiny_lm("qwen2", initializer_range=0.1), tiny_lm("qwen3", initializer_range=0.1)]
    pairs = zip(models, strange, strict=True)
    return FrozenModels([FrozenLM(lm.model, lm.tokenizer, model_id="strange", name=name) for name, lm in pairs])


ROWS = {
    "text": Row(
        name="text",
        family=FAMILIES["text"],
        models=lambda: shared_lm("llama"),
        strangers=lambda: shared_lm("qwen2"),
        lens=lambda: lens_runs.tiny_lens(shared_lm("llama")),
        data=lens_runs.tiny_rows,
        saved=lambda place: lens_runs.rows_folder("llama"),
        plain=lambda: _plain_contexts(lens_runs.tiny_rows()),
        controls=("self", "mean", "shuffled_activation", "token_shuffle"),
        zero="mean",
        noisy=True,
        run={"warm_steps": 2, "rollouts": 2, "warm_sure": 0.0, "lm_weight": "0"},
    ),
    "layers": Row(
        name="layers",
        family=FAMILIES["text"],
        models=lambda: shared_lm("llama"),
        strangers=lambda: shared_lm("qwen2"),
        lens=lambda: lens_runs.lens_of_layers(shared_lm("llama")),
        data=lens_runs.rows_of_layers,
        saved=lambda place: lens_runs.layers_folder(),
        plain=lambda: _plain_contexts(lens_runs.rows_of_layers()),
        controls=("self", "mean", "shuffled_activation", "token_shuffle"),
        zero="mean",
        noisy=True,
        run={"warm_steps": 2, "rollouts": 2, "warm_sure": 0.0, "lm_weight": "0"},
    ),
    "sparse": Row(
        name="sparse",
        family=FAMILIES["sparse"],
        models=lambda: shared_lm("llama"),
        strangers=lambda: shared_lm("qwen2"),
        lens=lambda: transcoder_runs.transcoder(nonlinearity="jumprelu", k=None),
        data=transcoder_runs.one_block,
        saved=lambda place: Path(transcoder_runs.one_block().folder),
        plain=transcoder_runs.plain_documents,
        controls=("self", "mean", "zero", "shuffled", "random", "pca"),
        zero="mean",
        half=32,
        together={"revive_steps": 0},
        run={"per_device_train_batch_size": 64, "dead_after": 100, "revive_steps": 2, "target_l0": 5.0},
    ),
    "soft": Row(
        name="soft",
        family=FAMILIES["soft"],
        models=wire_runs.wire_models,
        strangers=lambda: _same_names(wire_runs.wire_models()),
        lens=lambda: wire_runs.wire_lens(slots=3),
        data=wire_runs.wire_passages,
        saved=lambda place: wire_runs.wire_passages().save(place, overwrite=True),
        plain=lambda: _plain_passages(wire_runs.wire_passages()),
        controls=("text", "none", "first", "shuffled", "mean"),
        zero="none",
        whole="text",
        idle=True,
    ),
    "toy": Row(
        name="toy",
        family=TOY,
        models=toy_runs.toy_models,
        strangers=lambda: _same_names(toy_runs.toy_models()),
        lens=toy_runs.toy_lens,
        data=toy_runs.toy_passages,
        saved=lambda place: toy_runs.toy_passages().save(place, overwrite=True),
        plain=lambda: _plain_passages(toy_runs.toy_passages()),
        controls=("self", "mean", "halved"),
        zero="mean",
    ),
}


def know_all() -> None:
    """The one line that a family needs, in a process that has nothing else to do."""
    FAMILIES["toy"] = TOY


def logged(trainer: LensTrainer) -> list[dict[str, float]]:
    """All that was logged but the clocks."""
    clocks = ("runtime", "per_second", "total_flos", "load")
    return [{k: v for k, v in entry.items() if not k.endswith(clocks)} for entry in trainer.state.log_history]


def weights(lens: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach() for part in lens.parts().values() for name, p in part.items()}


def require_equal(one: Any, other: Any) -> None:
    """Two lenses have the same weights, bit for bit."""
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different
