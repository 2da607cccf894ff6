"""A family that lives in the tests alone, unlike any other: it proves that the spine knows none.

It reads three sites of two models with different tokenizers at all positions, writes two sites of each by edits that
are computed inside the pass, and is trained on KL over whole passes and the error of what it writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn

from consistency_lens.activations.passages import Passages
from consistency_lens.activations.passages.collator import padded
from consistency_lens.auto import Family
from consistency_lens.base.arguments import LensTrainingArguments
from consistency_lens.base.comparing import Applied, Joint, WholePass
from consistency_lens.base.configuration import LensConfig
from consistency_lens.base.lens import Batch, Code
from consistency_lens.base.modeling import LensModel
from consistency_lens.base.saving.lens_files import HEADS
from consistency_lens.base.trainer import LensTrainer
from consistency_lens.base.training_data import TrainingData
from consistency_lens.errors import BadInput
from consistency_lens.evaluation.family import EDIT, Control, FamilyReport, Seen
from consistency_lens.evaluation.held_out import HeldOut
from consistency_lens.frozen import Edit, FrozenModels
from consistency_lens.objectives import masked_mean
from consistency_lens.schedules import Schedule

READS = ("resid_pre.0", "mlp_in.0", "mlp_in.1")
# Site written -> the sites that its value is computed from: no pass reaches one of them later.
WRITES = {"mlp_out.0": READS[:2], "mlp_out.1": READS}


@strict
class ToyConfig(LensConfig):
    r"""
    Args:
        rank (`int`): features of each token.
        widths (`dict[str, int]`): hidden size of each model.
    """

    model_type = "toy"
    medium = "toy"

    rank: int = 4
    widths: dict[str, int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.rank < 1:
            raise BadInput("rank", self.rank, "Use 1 or more.")
        super().__post_init__(**kwargs)

    @property
    def code_in_words(self) -> str:
        return f"{self.rank} features of each token"


@dataclass(frozen=True)
class ToyCode(Code):
    """Site written -> features `[B, S, rank]` of the first model's tokens."""

    features: Mapping[str, Tensor]

    def take(self, rows: Tensor) -> ToyCode:
        return ToyCode({site: features[rows] for site, features in self.features.items()})

    def __len__(self) -> int:
        return len(next(iter(self.features.values())))


class ToyLens(LensModel):
    """Each model's MLPs, replaced by a few features of what the pass has read so far."""

    config_class = ToyConfig
    config: ToyConfig

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        sizes = {
            (name, site): (len(reads) * d, d) for name, d in self.widths.items() for site, reads in WRITES.items()
        }
        self.encoders = nn.ModuleDict({_key(*at): nn.Linear(d_in, config.rank) for at, (d_in, _) in sizes.items()})
        self.decoders = nn.ModuleDict({_key(*at): nn.Linear(config.rank, d) for at, (_, d) in sizes.items()})

    @classmethod
    def from_models(cls, models: FrozenModels, rank: int = 4) -> ToyLens:
        origins = models.provenance(dict.fromkeys(models, READS))
        widths = {name: model.hidden_size for name, model in models.items()}
        first = next(iter(widths.values()))
        own = ToyConfig.fields_of(origins)
        lens = cls(
            ToyConfig(sites=list(READS), writes=list(WRITES), hidden_size=first, rank=rank, widths=widths, **own)
        )
        lens.models = models
        return lens

    @classmethod
    def build(cls, config: Any, frozen: Any, tokenizer: Any) -> ToyLens:
        return cls(config)

    @property
    def widths(self) -> dict[str, int]:
        return self.config.widths or {}

    def encode(self, name: str, site: str, read: Mapping[str, Tensor]) -> Tensor:
        inputs = torch.cat([read[each] for each in WRITES[site]], dim=-1)
        return torch.relu(self.encoders[_key(name, site)](inputs.to(self.dtype)))

    def replaced(self, name: str, site: str, read: Mapping[str, Tensor]) -> Tensor:
        return self.decoders[_key(name, site)](self.encode(name, site, read))

    def edits(self) -> list[Edit]:
        """All MLPs of all models at all positions: nothing is known before the pass."""
        return [
            Edit(site, partial(self.replaced, name, site), None, lm=name, reads=reads)
            for name in self.widths
            for site, reads in WRITES.items()
        ]

    def forward(self, batch: Batch, models: FrozenModels) -> dict[str, Tensor]:
        """The terms of the loss. All that is trained is used inside this one call, or an engine would not see it."""
        kl, mse = [], []
        comparison, edits = self.comparison(models, batch), models.deal(self.edits())
        for name, part in comparison.parts.items():
            kl.append(part.kl(part.edited(edits[name])))
            tokens = batch["tokens"][name]["full"]
            read = models[name].read(tokens, [*READS, *WRITES])
            errors = [(self.replaced(name, site, read) - read[site]).square().sum(-1) for site in WRITES]
            mse.append(torch.stack([masked_mean(error, tokens["attention_mask"]) for error in errors]).mean(0))
        return {"kl": torch.stack(kl).mean(0), "mse": torch.stack(mse).mean(0)}

    @torch.no_grad()
    def compress(self, batch: Batch, seed: int | None = None) -> ToyCode:
        if self.models is None:
            raise BadInput("subject", None, "Load the lens with its models: it reads them.")
        name = self.models.first.name
        read = self.models.first.read(batch["tokens"][name]["full"], READS)
        return ToyCode({site: self.encode(name, site, read) for site in WRITES})

    def restore(self, code: Any, batch: Batch) -> list[Edit]:
        return self.edits()

    def comparison(self, models: FrozenModels, batch: Batch, horizon: int = 0) -> Joint:
        parts = {name: WholePass.of(model, batch["tokens"][name]["full"]) for name, model in models.items()}
        return Joint.of(models, parts)

    def contexts_of(self, texts: Sequence[str], ends: Sequence[Sequence[int]]) -> Batch:
        """Each text up to each of some tokens of the first model, as each model cuts it."""
        assert self.models is not None
        words = self.models.first.tokenizer
        rows = [(words(text)["input_ids"], end) for text, own in zip(texts, ends, strict=True) for end in own]
        heads = [words.decode(ids[: end + 1], skip_special_tokens=True) for ids, end in rows]
        tokens = {}
        for name, model in self.models.items():
            ids, mask = padded([model.tokenizer(head)["input_ids"] for head in heads], 0, left=True)
            tokens[name] = {"full": {"input_ids": ids, "attention_mask": mask}}
        return {"tokens": tokens}

    def describe(self, code: Any) -> list[dict[str, Any]]:
        best = [features.amax(1).argmax(-1).tolist() for features in code.features.values()]
        return [{"explanation": " ".join(f"f{i}" for i in row)} for row in zip(*best, strict=True)]

    def parts(self) -> dict[str, dict[str, nn.Parameter]]:
        return {"encoders": dict(self.encoders.named_parameters()), "decoders": dict(self.decoders.named_parameters())}

    def files(self) -> dict[str, dict[str, nn.Parameter]]:
        return {HEADS: dict(self.named_parameters())}

    def pieces(self) -> dict[str, nn.Module]:
        return {"encoders": self.encoders, "decoders": self.decoders}


def _key(name: str, site: str) -> str:
    return f"{name}:{site}".replace(".", "-")


@dataclass
class ToyArguments(LensTrainingArguments):
    shown_terms: ClassVar[tuple[str, ...]] = ("kl", "mse")

    kl_weight: str = field(default="1.0", metadata={"help": "Weight of the KL over whole passes."})
    mse_weight: str = field(default="1.0", metadata={"help": "Weight of the error of what is written."})

    def schedules(self) -> dict[str, Schedule]:
        return {term: Schedule.parse(vars(self)[f"{term}_weight"], field=f"{term}_weight") for term in ("kl", "mse")}


class ToyTrainer(LensTrainer):
    args: ToyArguments
    lens: ToyLens

    def open_data(self, given: Any, eval_dataset: Any, args: Any) -> TrainingData:
        passages = Passages.of(given)
        if "tokens" not in passages.metadata:
            passages = passages.tokenised(self.models)
        held_out = passages.splits.get("validation")
        if eval_dataset is not None:
            held_out = Passages.of(eval_dataset).tokenised(self.models).splits["train"]
        return TrainingData(passages.splits["train"], passages.collator(self.models), held_out, passages.metadata)

    def weigh(self, args: ToyArguments) -> Mapping[str, Schedule]:
        return args.schedules()

    def size_of(self, inputs: Mapping[str, Any]) -> tuple[int, Tensor]:
        return len(inputs["row"]), sum(tokens["full"]["attention_mask"].sum() for tokens in inputs["tokens"].values())

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """`kl KL(M || M with its MLPs replaced) + mse |MLP - replaced|²`, over all models."""
        loss = self.settle(model(inputs, self.models))
        return (loss, {}) if return_outputs else loss

    def baseline(self, applied: Applied, batch: Mapping[str, Any]) -> list[Edit]:
        return without_mlps(self.models)


def without_mlps(models: FrozenModels) -> list[Edit]:
    """The MLPs' outputs are zero: what recovers nothing."""
    return [
        Edit(site, torch.zeros(model.hidden_size), None, lm=name) for name, model in models.items() for site in WRITES
    ]


class ToyReport(FamilyReport):
    """Two edits that no lens made, and one lens that is none."""

    traits: ClassVar = {"active": "share of features that are above 0"}

    def begin(self, lens: LensModel, models: FrozenModels, data: Any, held_out: HeldOut) -> None:
        self.data = data if "tokens" in data.metadata else data.tokenised(models)
        self.data.require_models(models)
        held_out.require_split(self.data.splits)

    def batches(self, lens: LensModel, models: FrozenModels, data: Any, held_out: HeldOut) -> Any:
        rows, size = self.data.splits[held_out.split], held_out.batch_size
        collate = self.data.collator(models)
        return [
            collate([rows[i] for i in range(first, min(first + size, len(rows)))])
            for first in range(0, len(rows), size)
        ]

    def baseline(self, seen: Seen) -> list[Edit]:
        return without_mlps(seen.models)

    def edits(self, seen: Seen) -> Iterable[Control]:
        own = []
        for name, model in seen.models.items():
            read = model.read(seen.batch["tokens"][name]["full"], list(WRITES))
            own += [Edit(site, read[site], None, lm=name) for site in WRITES]
        yield Control("self", EDIT, "each MLP's own output", own)
        yield Control("mean", EDIT, "no MLP at all", without_mlps(seen.models))

    def controls(self, seen: Seen) -> Iterable[Control]:
        halved = [Edit(each.site, _halved(each.value), None, lm=each.lm, reads=each.reads) for each in seen.edits]
        yield Control("halved", "changed", "half of what the lens writes", halved)

    def describe(self, seen: Seen, records: Any) -> None:
        code: Any = seen.code
        shares = [(features > 0).float().mean((1, 2)) for features in code.features.values()]
        records.add("traits", {"active": torch.stack(shares).mean(0)})


def _halved(value: Any) -> Callable[[Mapping[str, Tensor]], Tensor]:
    return lambda read: value(read) / 2


FAMILY = Family(
    model_type="toy",
    config="toy_family:ToyConfig",
    model="toy_family:ToyLens",
    trainer="toy_family:ToyTrainer",
    arguments="toy_family:ToyArguments",
    run="toy_run:ToyRun",
    report="toy_family:ToyReport",
)
