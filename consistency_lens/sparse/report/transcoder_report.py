"""`TranscoderReport`: how much of the MLPs a transcoder explains, and what the model says with it in their place.

Shapes: B documents, N tokens, L chosen layers, d hidden size, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...base.modeling import LensModel
from ...errors import BadInput
from ...evaluation import Control, FamilyReport, HeldOut, Report, Seen
from ...evaluation.about import LENS, About, Group
from ...evaluation.bootstrap import Records
from ...evaluation.family import EDIT
from ...frozen import Edit, FrozenModels
from ..coding.documents import DocumentCode
from ..modeling import CrosslayerTranscoder
from ..training.data import Texts, collator_of
from .ablating import mean_ablated
from .controls import components, each_alone, edits_without_lens, projected, random_twin, shuffled
from .definitions import ALONE, CODES, QUANTITIES, SPOILED, of_layer
from .fidelity import clean_values, errors_of, spread_of, sums_and_squares

SAMPLED = 20_000  # training tokens, at most, from which principal components are computed


class TranscoderReport(FamilyReport):
    """All sites replaced inside one pass, each site alone, and controls through the same pass. A row is a document."""

    quantities = QUANTITIES
    compared = ("kl_recovered", "top1", "ce_loss_score")
    kept = ()

    def begin(self, lens: LensModel, models: FrozenModels, data: Any, held_out: HeldOut) -> None:
        """Raise unless the blocks are of this model and hold the documents; then compute what controls need."""
        data.require_model(models.only)
        if held_out.split not in data.splits:
            raise BadInput("split", held_out.split, f"Use one of {', '.join(data.splits)}.", why="no blocks are of it")
        for name, least in (("max_rows", 1), ("batch_size", 1), ("horizon", 0)):
            if (given := vars(held_out)[name]) is not None and given < least:
                raise BadInput(name, given, f"Use {least} or more.")
        config: Any = lens.config
        if config.across_layers:
            fix = "Give it thresholds first: lens.calibrated(...)."
            raise BadInput("across_layers", True, fix, why="inside a pass, layers above are not known yet")
        self.data, self.seed = data, held_out.seed
        self.written = [data.sites.index(site) for site in config.written_sites]
        self.means = data.mean[self.written].float().to(models.only.device)
        self.window: list[int] = config.window
        self.twin: CrosslayerTranscoder | None = None
        self.directions: list[Tensor] = []
        self.sums: list[Tensor] = []
        self.squares: list[Tensor] = []
        self.tokens: list[Tensor] = []
        self.fired = torch.zeros(len(config.window), config.features, dtype=torch.int64)

    def batches(self, lens: LensModel, models: FrozenModels, data: Any, held_out: HeldOut) -> Any:
        """Whole documents in batches of nearly equal size."""
        texts, collate = Texts(data.source(held_out.split)), collator_of(models.only)
        order = np.random.default_rng(held_out.seed).permutation(len(texts))[: held_out.max_rows]
        parts = np.array_split(order, -(-len(order) // held_out.batch_size))
        return [collate.padded([texts[int(i)] for i in part]) for part in parts]

    def about(self, groups: Mapping[str, Sequence[str]]) -> About:
        shown = (
            Group(LENS, "the lens", "all sites at once", brief=True),
            Group(SPOILED, "controls", "transcoders that know less", compared=True, brief=True),
            Group(EDIT, "edits, no lens", "edits, no lens"),
            Group(ALONE, "one layer", "each layer alone"),
        )
        return About(
            shown,
            zero="mean activations in the place of all sites",
            questions={"kl_recovered": "recovered", "top1": "", "ev": "", "l0": ""},
            details=("kl", "ce", "ce_loss_score", "kl_div_score", "fvu", "dead"),
        )

    def baseline(self, seen: Seen) -> list[Edit]:
        return mean_ablated(seen.lens, seen.batch, self.means)

    def edits(self, seen: Seen) -> Iterator[Control]:
        yield from edits_without_lens(seen.lens, seen.batch, self.means)

    def controls(self, seen: Seen) -> Iterator[Control]:
        if self.twin is None:
            self.twin = self.prepare(seen)
        made = {
            "shuffled": shuffled(seen.lens, seen.batch, seen.seed),
            "random": self.twin.replaced(seen.batch),
            "pca": projected(seen.lens, seen.batch, self.means, self.directions),
        }
        for name, edits in made.items():
            yield Control(name, SPOILED, CODES[name], edits)
        yield from each_alone(seen)

    def prepare(self, seen: Seen) -> CrosslayerTranscoder:
        """Controls with as many active features as the lens has on the first batch."""
        code: Any = seen.code
        active = code.active().double().mean(0)
        documents, samples, count = self.data.documents("train"), [], 0
        for number in range(len(documents)):  # in their order: each block is read once
            samples.append(documents[number]["activations"][:, self.written].float())
            count += len(samples[-1])
            if count >= SAMPLED:
                break
        ranks = [max(1, round(float(count))) for count in active]
        self.directions = [basis.to(self.means) for basis in components(torch.cat(samples)[:SAMPLED], ranks)]
        return random_twin(seen.lens, float(active.mean()), self.seed)

    def describe(self, seen: Seen, records: Records) -> None:
        """How near reconstructions are to what the untouched model computes, and how many features it takes."""
        lens, code = seen.lens, seen.code
        assert isinstance(code, DocumentCode) and self.twin is not None
        read, written, lengths = clean_values(lens, seen.frozen, seen.batch)
        for into, value in zip((self.sums, self.squares), sums_and_squares(written, lengths), strict=True):
            into.append(value.cpu())
        self.tokens.append(lengths.cpu())
        self.fired += code.tokens.counts().cpu()
        active = code.sums(code.active()).double()
        errors = errors_of(lens.reconstruct(read), written, lengths)
        self._add(records, LENS, errors.sum(1), active.mean(1), lengths)
        for i, layer in enumerate(lens.config.window):
            self._add(records, of_layer(layer), errors[:, i], active[:, i], lengths)
        records.add("random", {"error": errors_of(self.twin.reconstruct(read), written, lengths).sum(1)})
        means = self.means.to(written)
        kept = [means[i] + (written[:, i] - means[i]) @ b @ b.T for i, b in enumerate(self.directions)]
        records.add("pca", {"error": errors_of(torch.stack(kept, 1), written, lengths).sum(1)})

    def _add(self, records: Records, name: str, error: Tensor, active: Tensor, lengths: Tensor) -> None:
        records.add(name, {"error": error})
        records.add(name, {"l0": active}, {"l0": lengths})

    def finish(self, records: Records) -> None:
        """The spread about the mean of all evaluated tokens, and which features none of them has made active."""
        spread = spread_of(torch.cat(self.sums), torch.cat(self.squares), torch.cat(self.tokens))
        for name in (LENS, "random", "pca"):
            records.add(name, {"spread": spread.sum(1)})
        dead = (self.fired == 0).double().mean(1)
        records.add(LENS, {"dead": dead.mean().expand(len(spread))})
        for i, layer in enumerate(self.window):
            records.add(of_layer(layer), {"spread": spread[:, i], "dead": dead[i].expand(len(spread))})

    def verdict(self, report: Report) -> tuple[str, About]:
        numbers = report.parts["all"].numbers[LENS]
        said = (
            f"With the lens in the place of all its sites, the model keeps {numbers['kl_recovered']} of what mean "
            f"activations lose and says the same next token {numbers['top1']} of the time; it explains "
            f"{numbers['ev']} of the variance with {numbers['l0']} active features per token and layer."
        )
        return said, report.about

    def remarks(self, report: Report) -> list[str]:
        dead = report.number("dead").value
        return [
            f"{100 * dead:.1f} % of the features were active on none of the {self.evaluated:,} evaluated tokens. "
            "kl, top1 and ce are means over the tokens of a document, then over documents; the first token of each "
            "keeps the model's own values and is compared nowhere."
        ]

    @property
    def evaluated(self) -> int:
        """How many tokens were compared."""
        return int(torch.cat(self.tokens).sum())

    def described(self, data: Any, held_out: HeldOut) -> dict[str, Any]:
        return {
            "corpus": data.metadata["corpus"]["corpus"],
            "split": held_out.split,
            "documents_of_split": data.metadata["splits"][held_out.split]["documents"],
            "near_duplicates_of_split": data.metadata["near_duplicates"].get(held_out.split),
            "seed": held_out.seed,
        }
