"""`evaluate_lens`: the context of each batch runs once, and the lens and every control are judged on it.

Shapes: B rows, k horizon, d hidden size.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from ..activations import Activations
from ..base.fidelity import Bench, compare
from ..base.modeling import Code, LensModel
from ..errors import BadInput
from ..frozen import Edit, FrozenLM
from ..objectives import direction_error_of
from .assemble import assemble
from .controls import (
    AHEAD,
    LENS,
    SHUFFLED,
    TAIL,
    Reword,
    Vectors,
    as_edits,
    code_controls,
    edit_controls,
    require_tail,
    reworded,
)
from .gains import gains_of
from .judge import Judge, rows_for
from .numbers import ROW, traits_of
from .overflow import require_finite
from .report import Report
from .samples import Records, Samples

JUDGED = (LENS, SHUFFLED, TAIL, AHEAD)  # whose explanations the judges read


def evaluate_lens(
    lens: LensModel,
    frozen: FrozenLM,
    activations: Activations,
    *,
    split: str = "test",
    max_rows: int | None = None,
    batch_size: int = 64,
    horizon: int = 8,
    seed: int = 0,
    rivals: Mapping[str, LensModel] | None = None,
    before: LensModel | None = None,
    judges: Sequence[Judge] = (),
    reword: Reword | None = None,
    training_history: Sequence[Mapping[str, Any]] | None = None,
    progress: bool = True,
) -> Report:
    """Every number of a lens on held-out documents, with intervals, beside every control.

    Args:
        lens: what is to be judged.
        frozen: the subject it was made for.
        activations: rows of that subject.
        split: of the rows; `train` flatters.
        max_rows: use so many, drawn from all documents; default all.
        batch_size: rows per pass. A partner for `resample` and `shuffled_activation` comes from the same batch.
        horizon: judge so many true next positions as well; 0 for P alone.
        seed: of the choice of rows, the noise, the controls and the bootstrap.
        rivals: name -> a lens that restores this lens's code `context_tail`; `context_tail_trained` is one trained on
            such tails with the same objective and budget, the honest text baseline.
        before: the same lens at an earlier moment, such as the end of its warm start: the report says what it has
            gained since, row by row.
        judges: worlds whose truth is known.
        reword: explanations and a seed -> the same in other words, where a world can do that.
        training_history: rows with `step` and what was measured then, for the curves.
        progress: show a bar.

    Returns:
        The report; `save` writes it, `show` prints it.
    """
    lens.config.require_subject(frozen)
    activations.require_model(frozen)
    _require_rows(activations, split, horizon, max_rows, batch_size)
    began = time.monotonic()
    if before is not None:
        before.config.require_subject(frozen)
    study = _Study(lens, frozen, activations, horizon, dict(rivals or {}), judges, reword)
    earlier = None if before is None else _Earlier(before, frozen, activations, horizon, {}, judges, reword)
    pad_id = frozen.tokenizer.pad_token_id
    collate = activations.collator(pad_id if pad_id is not None else 0, sites=lens.config.sites)
    chosen = list(_choose(activations, split, max_rows, batch_size, seed))
    with ExitStack() as modes:
        for each in (lens, *filter(None, [before])):
            modes.callback(each.train, each.training)
            each.eval()
        bar = tqdm(chosen, desc="evaluating", unit="batch", disable=None if progress else True)
        for number, rows in enumerate(bar):
            batch = _moved(collate(rows), frozen.device)
            bench = Bench.of(frozen, batch, horizon)
            for one in (study, *filter(None, [earlier])):
                one.add(batch, bench, seed + number)
    return study.report(split, seed, list(training_history or ()), began, earlier)


class _Study:
    """What is measured, batch after batch."""

    def __init__(
        self,
        lens: LensModel,
        frozen: FrozenLM,
        activations: Activations,
        horizon: int,
        rivals: Mapping[str, LensModel],
        judges: Sequence[Judge],
        reword: Reword | None,
    ) -> None:
        self.lens, self.frozen, self.activations, self.horizon = lens, frozen, activations, horizon
        self.rivals, self.judges, self.reword = rivals, judges, reword
        self.sites = lens.config.sites or []
        self.means = {site: activations.mean(site).to(frozen.device) for site in self.sites}
        self.records = Records()
        self.groups: dict[str, list[str]] = {}
        self.texts: list[str] = []
        self.documents: list[int] = []
        self.positions: list[int] = []
        self.subsets: dict[str, list[np.ndarray]] = {}
        self.directions: list[Tensor] = []
        self.stored_difference = 0.0

    @torch.no_grad()
    def add(self, batch: Mapping[str, Any], bench: Bench, seed: int) -> None:
        """One batch: the clean pass, then each edit and each code in A's place."""
        stored = {site: batch["activations"][site].float() for site in self.sites}
        own = bench.prefix.read(self.sites, self.horizon)
        self._note_rows(batch, bench, own, stored)
        for name, vectors in self.edits(own, stored, batch["pair"], seed).items():
            self._judge("edit", name, bench, as_edits(vectors), stored)
        code = self.lens.compress(batch)
        groups: dict[str, dict[str, Code]] = {"lens": {LENS: code}, **self.codes(code, batch, bench, seed)}
        codes = {name: found for group in groups.values() for name, found in group.items()}
        for group, members in groups.items():
            for name, member in members.items():
                self._judge(group, name, bench, self.lens.restore(member, batch), stored)
        require_tail(codes, self.rivals)
        for name, rival in self.rivals.items():
            self._judge("text", name, bench, rival.restore(codes[TAIL], batch), stored)

        traits = dict(self.lens.traits(code, batch, bench.prefix, self.frozen, seed))
        for kind in ("sample", "excerpt"):
            if {"text_nll", f"{kind}_nll"} <= traits.keys():
                traits[f"text_nll_above_{kind}s"] = traits["text_nll"] - traits[f"{kind}_nll"]
        self.records.add("traits", traits)
        self._read(batch, {name: codes[name] for name in JUDGED if name in codes})

    def edits(self, own: Vectors, stored: Vectors, pair: Tensor, seed: int) -> dict[str, Vectors]:
        return edit_controls(own, stored, self.means, pair, seed)

    def codes(self, code: Code, batch: Mapping[str, Any], bench: Bench, seed: int) -> dict[str, dict[str, Code]]:
        return code_controls(self.lens, code, batch, bench.prefix, self.frozen, seed, self.reword)

    def _note_rows(self, batch: Mapping[str, Any], bench: Bench, own: Vectors, stored: Vectors) -> None:
        """What belongs to a row and to no code."""
        original = _as_one(stored)
        self.documents += batch["doc_id"].tolist()
        self.positions += batch["position"].tolist()
        self.directions.append(F.normalize(original, dim=-1).cpu())
        spread = (original - _as_one(self.means)).square().sum(-1)
        self.records.add(ROW, {"spread": spread} | {k: v for k, v in bench.judge([]).items() if k == "ce"})
        apart = (_as_one(own) - original).norm(dim=-1) / _as_one(own).norm(dim=-1)
        self.stored_difference = max(self.stored_difference, float(apart.max()))

    def _judge(self, group: str, name: str, bench: Bench, edits: Sequence[Edit], stored: Vectors) -> None:
        """One edit per site in A's place: what the subject says, and how near the vector is."""
        names = self.groups.setdefault(group, [])
        if name not in names:
            names.append(name)
        found = bench.judge(edits)
        if self.horizon:
            columns = bench.mask.sum(1)
            beyond = (found["kl_horizon"] * columns - found["kl"]) / (columns - 1)
            found["kl_after"] = torch.where(columns > 1, beyond, torch.nan)
        by_site = {str(edit.site): edit.tensor.float() for edit in edits}
        original = _as_one(stored)
        restored = _as_one({site: by_site[site] for site in stored}).expand_as(original)
        found |= compare(restored, original) | {"direction_error": direction_error_of(restored, original)}
        self.records.add(name, found)
        if name == "self":
            self._require_exact()

    def _require_exact(self) -> None:
        """A in its own place must do nothing at all; where it does something, no other number means anything."""
        for measure in ("kl", "kl_horizon"):
            if self.horizon or measure == "kl":
                worst = float(np.abs(self.records.values["self", measure][-1]).max())
                if worst != 0:
                    raise RuntimeError(
                        f"The swap is not exact: an activation in its own place moves the subject's output by a "
                        f"{measure} of {worst:.2g}. No number of this lens could be trusted. Something in the forward "
                        "pass depends on more than its input: dropout, or kernels that are not deterministic."
                    )

    def _read(self, batch: Mapping[str, Any], codes: Mapping[str, Code]) -> None:
        """Explanations, and what the judges say of them."""
        said = {name: [str(row["explanation"]) for row in self.lens.explain(code)] for name, code in codes.items()}
        self.texts += said[LENS]
        for judge in self.judges:
            rows = rows_for(judge, batch)
            for name, mask in judge.subsets(rows).items():
                self.subsets.setdefault(name, []).append(mask.cpu().numpy())
            for name, texts in said.items():
                judged = judge.judge(texts, rows)
                numerators = {measure: above for measure, (above, _) in judged.items()}
                self.records.add(name, numerators, {measure: below for measure, (_, below) in judged.items()})

    def samples(self, seed: int) -> Samples:
        """With what only shows over all rows."""
        directions = torch.cat(self.directions)
        self.records.add(ROW, {"direction_spread": (directions - directions.mean(0)).square().sum(-1)})
        traits_of(self.records, self.texts)
        subsets = {name: np.concatenate(parts) for name, parts in self.subsets.items()}
        return Samples(self.records, np.array(self.documents), subsets, seed=seed)

    def report(
        self, split: str, seed: int, history: Sequence[Mapping[str, Any]], began: float, earlier: _Earlier | None
    ) -> Report:
        require_finite(self.records, self.sites, self.frozen.dtype)
        definitions = {k: v for judge in self.judges for k, v in judge.definitions.items()}
        samples = self.samples(seed)
        duplicates = self.activations.metadata.get("near_duplicates", {})
        origin = self.lens.config.origin
        return assemble(
            samples,
            self.groups,
            np.array(self.positions),
            self.horizon,
            judged=definitions,
            gains=gains_of(samples, earlier.samples(seed), definitions) if earlier else {},
            training=[dict(row) for row in history],
            lens={
                "family": self.lens.config.model_type,
                "sites": list(self.sites),
                "subject": origin.model_id,
                "weights": origin.weights,
            },
            data={
                "corpus": self.activations.metadata.get("corpus", {}).get("corpus", ""),
                "split": split,
                "rows": len(self.documents),
                "documents": samples.documents,
                "documents_of_split": self.activations.metadata["splits"][split]["documents"],
                "near_duplicates_of_split": duplicates.get(split),
                "seed": seed,
                "stored_difference": self.stored_difference,
                "seconds": round(time.monotonic() - began, 1),
            },
        )


class _Earlier(_Study):
    """An earlier moment of the lens: its own codes, and what its numbers are measured by."""

    def edits(self, own: Vectors, stored: Vectors, pair: Tensor, seed: int) -> dict[str, Vectors]:
        every = super().edits(own, stored, pair, seed)
        return {name: every[name] for name in ("mean", "resample")}

    def codes(self, code: Code, batch: Mapping[str, Any], bench: Bench, seed: int) -> dict[str, dict[str, Code]]:
        return {"tampered": reworded(self.lens, code, seed, self.reword)}


def _require_rows(activations: Activations, split: str, horizon: int, max_rows: int | None, batch_size: int) -> None:
    for name, given in (("max_rows", max_rows), ("batch_size", batch_size)):
        if given is not None and given < 2:
            raise BadInput(name, given, "Use 2 or more: each row needs a partner of another document.")
    if split not in activations.splits or not len(activations.splits[split]):
        fix = f"Use one of {', '.join(name for name, rows in activations.splits.items() if len(rows))}."
        raise BadInput("split", split, fix, why="there are no rows")
    held = activations.metadata["rules"]["continuation_length"]
    if not 0 <= horizon <= held:
        raise BadInput("horizon", horizon, f"Use 0 to {held}, or extract with a larger continuation_length.")


def _choose(
    activations: Activations, split: str, max_rows: int | None, batch_size: int, seed: int
) -> Iterator[list[dict[str, Any]]]:
    """Batches of nearly equal size that mix documents."""
    dataset = activations.splits[split]
    order = np.random.default_rng(seed).permutation(len(dataset))[:max_rows]
    for part in np.array_split(order, -(-len(order) // batch_size)):
        yield [dataset[int(i)] for i in part]


def _moved(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    return moved | {"activations": {site: vector.to(device) for site, vector in batch["activations"].items()}}


def _as_one(vectors: Mapping[str, Tensor]) -> Tensor:
    """All sites of a row as one vector."""
    return torch.cat([vector.float() for vector in vectors.values()], dim=-1)
