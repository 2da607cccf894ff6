"""Two hops or one jump: does a transcoder take the steps that the model demonstrably takes?

A case is a story and the same story with another value of one fact, and m, by how much the first value is ahead of the
second one where the fact is needed. The effect of a change is the share of the way from the one story's m to the
other's that it moves m. A *step* (i, j) at a place (the token that states the fact, or the one before it is needed)
is what layer i computes there on its way through layer j: layer i gets the other story's value, layer j what it makes
of that, and only layer j's change is put into the clean pass.

In the model that is patching of MLP outputs. In the transcoder it has two routes: through features of layer j, which
read what features of layer i have written (two hops), or by what features of layer i write past layer j into its
target (one jump).

Shapes: B cases, S columns, N = B·S tokens, L chosen layers, F features per layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from consistency_lens.demo.transcoder.cases import Case, CaseBatch, case_batches
from consistency_lens.evaluation.bootstrap import Records
from consistency_lens.frozen import Edit, FrozenLM
from consistency_lens.sparse.coding.encoding import Active
from consistency_lens.sparse.measuring.error_nodes import with_errors
from consistency_lens.sparse.modeling import CrosslayerTranscoder
from consistency_lens.sparse.use.replacing import replaced_by

PLACES = ("statement", "need")
LEAST = 0.1  # effect from which on a step is taken
LEAST_WAY = 0.1  # of m, in logits, between the two stories
MODEL = "model"
DEFINITIONS = {
    "hop_statement": "effect on the answer of the other story's MLP outputs (of a transcoder: features) at the token "
    "that states the fact, all layers: 0 none, 1 that of the whole other story",
    "hop_need": "the same at the token before the fact is needed",
    "steps": f"steps (i, j), at those two tokens, whose effect in the model by patching is {LEAST} or more, for each "
    "case",
    "two_hops": f"of these steps the share that the transcoder takes through features of layer j: effect {LEAST} or "
    "more, and at least that of the jump",
    "one_jump": f"the share that it takes by what features of layer i write into layer j's target: effect {LEAST} or "
    "more, and more than through features of layer j",
    "neither": "the share that it takes by neither route",
}


@torch.no_grad()
def hops(
    frozen: FrozenLM, lenses: Mapping[str, CrosslayerTranscoder], cases: Sequence[Case]
) -> tuple[Records, list[int]]:
    """A row for each case whose answer the model says in both stories, and the story of each."""
    records, stories = Records(), []
    for batch in case_batches(frozen, cases):
        window = next(iter(lenses.values())).config.window
        steps = _steps(window, frozen.num_layers)
        model = _OfModel(frozen, batch, window)
        right = model.says_both()
        taken = torch.stack([model.step(*step) >= LEAST for step in steps], 1) & right[:, None]
        own = {f"hop_{place}": model.whole(place) for place in PLACES} | {"steps": taken.double().sum(1)}
        records.add(MODEL, {n: v * right for n, v in own.items()}, dict.fromkeys(own, right))
        for name, lens in lenses.items():
            of_lens = _OfLens(frozen, batch, lens)
            found = {f"hop_{place}": of_lens.whole(place) for place in PLACES}
            records.add(name, {n: v * right for n, v in found.items()}, dict.fromkeys(found, right))
            two = torch.stack([of_lens.through(*step) for step in steps], 1)
            one = torch.stack([of_lens.jump(*step) for step in steps], 1)
            hop, jump = (two >= LEAST) & (two >= one), (one >= LEAST) & (one > two)
            shares = {"two_hops": hop, "one_jump": jump, "neither": ~hop & ~jump}
            values = {measure: (share & taken).double().sum(1) for measure, share in shares.items()}
            records.add(name, values, dict.fromkeys(values, taken.double().sum(1)))
        stories += [case.story for case in batch.cases]
    return records, stories


def _steps(window: Sequence[int], depth: int) -> list[tuple[str, int, int]]:
    """Places and pairs of layers, without those through the last layer at the statement: nothing looks back at it."""
    found = [(place, i, j) for place in PLACES for i, j in combinations(range(len(window)), 2)]
    return [(place, i, j) for place, i, j in found if place == "need" or window[j] < depth - 1]


class _Effects:
    """Effects on one batch of cases: m of the story as it is, of the other story, and of anything between."""

    def __init__(self, frozen: FrozenLM, batch: CaseBatch) -> None:
        self.frozen, self.batch = frozen, batch
        last = torch.full_like(batch.stated, batch.clean["input_ids"].shape[1] - 1)
        self.columns = {"statement": batch.stated, "need": last}
        self.clean = self.other = torch.zeros(len(batch.cases))

    def logits(self, edits: Sequence[Edit], other: bool = False) -> Tensor:
        return self.frozen.logits(self.batch.other if other else self.batch.clean, edits, keep=1)

    def effect(self, edits: Sequence[Edit]) -> Tensor:
        """`[B]`; 0 where the two stories hardly differ, and shares of the way mean nothing."""
        way, moved = self.clean - self.other, self.clean - self.batch.margin(self.logits(edits))
        return torch.where(way.abs() > LEAST_WAY, moved / way, 0.0).double().cpu()


class _OfModel(_Effects):
    """MLP outputs of the other story in the place of the model's own."""

    def __init__(self, frozen: FrozenLM, batch: CaseBatch, window: Sequence[int]) -> None:
        super().__init__(frozen, batch)
        self.sites = [f"mlp_out.{layer}" for layer in window]
        self.before, self.after = self.logits([]), self.logits([], other=True)
        self.clean, self.other = batch.margin(self.before), batch.margin(self.after)
        self.values = frozen.read(batch.other, self.sites)
        self.passed: dict[tuple[str, int], dict[str, Tensor]] = {}

    def says_both(self) -> Tensor:
        """Which cases the model answers with the right value, in both stories."""
        pairs = ((self.before, self.batch.answer), (self.after, self.batch.rival))
        return torch.stack([logits[:, -1].argmax(-1) == ids for logits, ids in pairs]).all(0).cpu()

    def _patch(self, place: str, index: int, value: Tensor | None = None) -> Edit:
        columns = self.columns[place][:, None]
        rows = torch.arange(len(columns), device=columns.device)[:, None]
        own = self.values[self.sites[index]][rows, columns] if value is None else value
        return Edit(self.sites[index], own, columns)

    def whole(self, place: str) -> Tensor:
        return self.effect([self._patch(place, index) for index in range(len(self.sites))])

    def step(self, place: str, i: int, j: int) -> Tensor:
        if (place, i) not in self.passed:
            found: dict[str, Tensor] = {}
            kept = [self._keep(place, site, found) for site in self.sites[i + 1 :]]
            self.logits([self._patch(place, i), *kept])
            self.passed[place, i] = found
        return self.effect([self._patch(place, j, self.passed[place, i][self.sites[j]])])

    def _keep(self, place: str, site: str, found: dict[str, Tensor]) -> Edit:
        """Leaves what flows as it is, and keeps it."""

        def value(read: Mapping[str, Tensor]) -> Tensor:
            found[site] = read[site].clone()
            return read[site]

        return Edit(site, value, self.columns[place][:, None], reads=(site,))


class _OfLens(_Effects):
    """Features of the other story in the place of the lens's own, inside the replaced model."""

    def __init__(self, frozen: FrozenLM, batch: CaseBatch, lens: CrosslayerTranscoder) -> None:
        super().__init__(frozen, batch)
        self.lens = lens
        self.own: dict[int, Tensor] = {}
        self.theirs: dict[int, Tensor] = {}
        self.clean = batch.margin(self.logits(self._edits({}, "need", self.own)))
        self.other = batch.margin(self.logits(self._edits({}, "need", self.theirs, other=True), other=True))
        self.passed: dict[tuple[str, int], dict[int, Tensor]] = {}

    def _edits(
        self, given: Mapping[int, Tensor], place: str, seen: dict[int, Tensor] | None = None, other: bool = False
    ) -> list[Edit]:
        """The lens in place, with given features of some layers at one token; what features there are is kept."""
        batch = self.batch.other if other else self.batch.clean
        here = self._here(place)

        def change(index: int, active: Active) -> Active:
            dense = active if isinstance(active, Tensor) else active.dense()
            if index in given:
                dense = torch.where(here, given[index], dense)
            if seen is not None:
                seen[index] = dense
            return dense

        return replaced_by(self.lens, batch, change)

    def _here(self, place: str) -> Tensor:
        """The place of each row among all tokens, `[N, 1]`."""
        rows, width = self.batch.clean["input_ids"].shape
        found = torch.zeros(rows, width, dtype=torch.bool, device=self.columns[place].device)
        found[torch.arange(rows), self.columns[place]] = True
        return found.view(-1, 1)

    def whole(self, place: str) -> Tensor:
        return self.effect(self._edits(self.theirs, place))

    def through(self, place: str, i: int, j: int) -> Tensor:
        if (place, i) not in self.passed:
            seen: dict[int, Tensor] = {}
            self.logits(self._edits({i: self.theirs[i]}, place, seen))
            self.passed[place, i] = seen
        return self.effect(self._edits({j: self.passed[place, i][j]}, place))

    def jump(self, place: str, i: int, j: int) -> Tensor:
        lens = self.lens
        if not lens.config.crosslayer:
            return torch.zeros(len(self.batch.cases), dtype=torch.float64)
        changed = torch.where(self._here(place), self.theirs[i] - self.own[i], 0.0)
        piece = lens.targets.pieces(i, changed, lens.layers_in_order[i])[j - i] * lens.targets.standardiser.scale[j]
        rows, width = self.batch.clean["input_ids"].shape
        added = piece.new_zeros(rows, width, len(lens.config.window), piece.shape[-1])
        added[:, :, j] = piece.view(rows, width, -1)
        return self.effect(with_errors(self._edits({}, place), added))
