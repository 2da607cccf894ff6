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
from ..coding.code import SparseCode
from ..coding.documents import DocumentCode
from ..measuring import density, error_nodes, rate, reach
from ..measuring.rate import BITS, WHOLE, fewest_bits, largest_values, quantised_edits, rate_of
from ..modeling import CrosslayerTranscoder
from ..training.data import Texts, collator_of
from .ablating import mean_ablated
from .controls import components, each_alone, edits_without_lens, projected, random_twin, shuffled
from .definitions import (
    ALONE,
    BESIDE,
    CODES,
    ERRORS,
    QUANTITIES,
    SPOILED,
    THRESHOLDS,
    TRAITS,
    VALUES,
    of_bits,
    of_layer,
)
from .fidelity import clean_values, errors_of, spread_of, sums_and_squares

SAMPLED = 20_000  # training tokens, at most, from which principal components are computed


class TranscoderReport(FamilyReport):
    """All sites replaced inside one pass, each site alone, and controls through the same pass. A row is a document.

    Args:
        beside: further transcoders of the same sites, to be measured beside the lens: `per_layer`, of equal size, is a
            control; `jumprelu` is the lens with thresholds in the place of its TopK.
        alone: measure each site alone, too: a pass for each.
    """

    quantities = QUANTITIES
    traits = TRAITS
    compared = ("kl", "kl_recovered", "top1", "ce_loss_score", "ev", "l0")
    kept = ()

    def __init__(self, beside: Mapping[str, LensModel] | None = None, alone: bool = True) -> None:
        self.alone = alone
        self.beside: dict[str, Any] = dict(beside or {})
        if unknown := sorted(set(self.beside) - set(BESIDE)):
            raise BadInput("beside", unknown[0], f"Name them {' or '.join(BESIDE)}.")

    @property
    def lenses(self) -> Sequence[LensModel]:
        return list(self.beside.values())

    def begin(self, lens: LensModel, models: FrozenModels, data: Any, held_out: HeldOut) -> None:
        """Raise unless the blocks are of this model and hold the documents; then compute what controls need."""
        data.require_model(models.only)
        held_out.require_split(data.splits)
        config: Any = lens.config
        if config.across_layers:
            fix = "Give it thresholds first: lens.calibrated(...)."
            raise BadInput("across_layers", True, fix, why="inside a pass, layers above are not known yet")
        for name, other in self.beside.items():
            if other.config.written_sites != config.written_sites:
                fix = f"Give one that writes {', '.join(config.written_sites)}."
                raise BadInput(name, other.config.written_sites, fix)
        self.data, self.seed = data, held_out.seed
        self.written = [data.sites.index(site) for site in config.written_sites]
        self.means = data.mean[self.written].float().to(models.only.device)
        self.read = [data.sites.index(site) for site in config.read_sites]
        self.window: list[int] = config.window
        self.twin: CrosslayerTranscoder | None = None
        self.directions: list[Tensor] = []
        self.sums: list[Tensor] = []
        self.squares: list[Tensor] = []
        self.tokens: list[Tensor] = []
        self.active: list[Tensor] = []
        self.choices: list[Tensor] = []
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
            Group(THRESHOLDS, "thresholds", "the lens with thresholds", compared=True),
            Group(EDIT, "edits, no lens", "edits, no lens"),
            Group(ERRORS, "error nodes", "with error nodes"),
            Group(ALONE, "one layer", "each layer alone"),
            Group(VALUES, "b bits", "values in b bits"),
        )
        tokens = self.evaluated
        alive = self.fired > 0
        return About(
            shown,
            zero="mean activations in the place of all sites",
            questions={"kl_recovered": "recovered", "top1": "", "ev": "", "l0": ""},
            details=("kl", "ce", "ce_loss_score", "kl_div_score", "fvu", "dead", "rate"),
            charts=(
                rate.chart_of(self.kl_of_bits),
                density.chart_of(self.fired, tokens, self.window),
                reach.profile_of(self.written_squares, self.window, alive),
            ),
        )

    def baseline(self, seen: Seen) -> list[Edit]:
        return mean_ablated(seen.lens, seen.batch, self.means)

    def edits(self, seen: Seen) -> Iterator[Control]:
        yield from edits_without_lens(seen.lens, seen.batch, self.means)

    def controls(self, seen: Seen) -> Iterator[Control]:
        lens, batch = seen.lens, seen.batch
        if self.twin is None:
            self.twin = self.prepare(seen)
        self.clean = clean_values(lens, seen.frozen, batch)
        self.reconstruction = lens.reconstruct(self.clean[0])
        made = {
            "shuffled": shuffled(lens, batch, seen.seed),
            "random": self.twin.replaced(batch),
            "pca": projected(lens, batch, self.means, self.directions),
        }
        made |= {name: other.replaced(batch) for name, other in self.beside.items()}
        for name, edits in made.items():
            yield Control(name, BESIDE.get(name, SPOILED), CODES[name], edits)
        left = error_nodes.spread_out(self.clean[1] - self.reconstruction, batch)
        yield Control("with_errors", ERRORS, CODES["with_errors"], error_nodes.with_errors(seen.edits, left))
        if self.alone:
            yield from each_alone(seen)
        for bits in BITS:
            definition = f"the lens with {bits} bits for each value, as `rate` counts them"
            yield Control(of_bits(bits), VALUES, definition, quantised_edits(lens, batch, bits, self.largest))

    def prepare(self, seen: Seen) -> CrosslayerTranscoder:
        """Controls with as many active features as the lens has on the first batch; what its values are on training
        tokens, and what it writes where."""
        lens, code = seen.lens, seen.code
        assert isinstance(code, DocumentCode)
        active = code.active().double().mean(0)
        documents, samples, count = self.data.documents("train"), [], 0
        for number in range(len(documents)):  # in their order: each block is read once
            samples.append(documents[number]["activations"].float())
            count += len(samples[-1])
            if count >= SAMPLED:
                break
        known = torch.cat(samples)[:SAMPLED]
        ranks = [max(1, round(float(count))) for count in active]
        self.directions = [basis.to(self.means) for basis in components(known[:, self.written], ranks)]
        self.largest = largest_values(lens, known[:, self.read])
        twin = random_twin(lens, float(active.mean()), self.seed)
        self.written_squares, self.squares_of_twin = reach.squares_of(lens), reach.squares_of(twin)
        return twin

    def describe(self, seen: Seen, records: Records) -> None:
        """How near reconstructions are to what the untouched model computes, and how many features it takes."""
        lens, code = seen.lens, seen.code
        assert isinstance(code, DocumentCode) and self.twin is not None
        read, written, lengths = self.clean
        for into, value in zip((self.sums, self.squares), sums_and_squares(written, lengths), strict=True):
            into.append(value.cpu())
        self.tokens.append(lengths.cpu())
        self.fired += code.tokens.counts().cpu()
        counts = code.active()
        active = code.sums(counts).double()
        self.active.append(active.sum(1).cpu())
        self.choices.append(code.sums(rate_of(counts, lens.config.features, 0)).cpu())
        errors = errors_of(self.reconstruction, written, lengths)
        self._add(records, LENS, errors.sum(1), active.mean(1), lengths)
        for i, layer in enumerate(self.window if self.alone else ()):
            self._add(records, of_layer(layer), errors[:, i], active[:, i], lengths)
        for name, other in {"random": self.twin, **self.beside}.items():
            records.add(name, {"error": errors_of(other.reconstruct(read), written, lengths).sum(1)})
        for name, other in self.beside.items():
            found = code.sums(DocumentCode(_encoded(other, read), lengths).active()).double()
            records.add(name, {"l0": found.mean(1)}, {"l0": lengths})
        means = self.means.to(written)
        kept = [means[i] + (written[:, i] - means[i]) @ b @ b.T for i, b in enumerate(self.directions)]
        records.add("pca", {"error": errors_of(torch.stack(kept, 1), written, lengths).sum(1)})
        of_twin = DocumentCode(_encoded(self.twin, read), lengths)
        for name, own, squares in (
            ("reach", code, self.written_squares),
            ("reach_random", of_twin, self.squares_of_twin),
        ):
            energy = reach.written_by_distance(own, squares)
            records.add("traits", {name: energy[:, 1:].sum(1)}, {name: energy.sum(1)})

    def _add(self, records: Records, name: str, error: Tensor, active: Tensor, lengths: Tensor) -> None:
        records.add(name, {"error": error})
        records.add(name, {"l0": active}, {"l0": lengths})

    def finish(self, records: Records) -> None:
        """The spread about the mean of all evaluated tokens, and which features none of them has made active."""
        spread = spread_of(torch.cat(self.sums), torch.cat(self.squares), torch.cat(self.tokens))
        for name in (LENS, "random", "pca", *self.beside):
            records.add(name, {"spread": spread.sum(1)})
        lengths = torch.cat(self.tokens).double()
        bits = self._fewest_bits(records)
        sent = torch.cat(self.choices) + bits * torch.cat(self.active)
        records.add(LENS, {"rate": sent}, {"rate": lengths})
        records.add("traits", {"value_bits": torch.full((len(spread),), float(bits))})
        dead = (self.fired == 0).double().mean(1)
        records.add(LENS, {"dead": dead.mean().expand(len(spread))})
        for i, layer in enumerate(self.window if self.alone else ()):
            records.add(of_layer(layer), {"spread": spread[:, i], "dead": dead[i].expand(len(spread))})

    def _fewest_bits(self, records: Records) -> int:
        """b of the rate, from the KL that values of so many bits leave; that of whole values comes last."""
        of_mean, codes = records.column("mean", "kl").mean(), {**{b: of_bits(b) for b in BITS}, WHOLE: LENS}
        self.kl_of_bits = {bits: float(records.column(code, "kl").mean()) for bits, code in codes.items()}
        recovered = {bits: float(1 - kl / of_mean) for bits, kl in self.kl_of_bits.items()}
        return fewest_bits(recovered, recovered[WHOLE])

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


def _encoded(lens: CrosslayerTranscoder, read: Tensor) -> SparseCode:
    return lens.code_of(lens.encode(read))
