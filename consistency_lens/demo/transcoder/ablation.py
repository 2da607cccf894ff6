"""The faithfulness of single features: without the one that stands for a fact, the model must not know the fact.

Shapes: B cases, S columns, N = B·S tokens, F features per layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from consistency_lens.demo.transcoder.cases import Case, CaseBatch, case_batches
from consistency_lens.demo.transcoder.labels import NUMBER
from consistency_lens.evaluation.bootstrap import Records
from consistency_lens.frozen import Edit, FrozenLM
from consistency_lens.sparse.coding.encoding import Active
from consistency_lens.sparse.modeling import CrosslayerTranscoder
from consistency_lens.sparse.use.replacing import Change, changed_by, replaced_by

FEATURE, ANOTHER = "lens", "another_feature"
_OF = "the feature that says best where the fact is needed (chosen by F1 on other stories) ablated at all tokens"
DEFINITIONS = {
    "lost_in_model": f"share of the needed facts that the untouched model says and no longer says with {_OF}, the "
    "model's own MLPs in place",
    "drop_in_model": "by how much the probability of that fact falls then",
    "lost_in_replaced": "the share lost in the same way with the transcoder in the place of the MLPs before and after",
    "drop_in_replaced": "by how much the probability of the fact falls then",
}
KINDS = {
    "synonym": "where the story states it in another word",
    "plain": "where the story states it in that very word",
}


@torch.no_grad()
def ablations(
    frozen: FrozenLM, lens: CrosslayerTranscoder, cases: Sequence[Case], chosen: Mapping[int, tuple[int, int]]
) -> tuple[Records, list[int]]:
    """A row for each case, and the story of each.

    Args:
        frozen: the model.
        lens: the transcoder.
        cases: from stories on which nothing was chosen.
        chosen: number of a fact -> (index of a chosen layer, feature).
    """
    records, stories = Records(), []
    known = [case for case in cases if NUMBER[case.kind, case.value] in chosen]
    for batch in case_batches(frozen, known):
        own = torch.tensor([chosen[NUMBER[case.kind, case.value]] for case in batch.cases])
        seen: dict[int, Tensor] = {}
        replaced = _said(frozen, batch, replaced_by(lens, batch.clean, _recording(seen)))
        clean = _said(frozen, batch, [])
        synonym = torch.tensor([case.by_synonym for case in batch.cases])
        for code, features in ((FEATURE, own), (ANOTHER, _another(batch, own, seen))):
            changed = changed_by(lens, batch.clean, _ablating(features, difference=True))
            without = replaced_by(lens, batch.clean, _ablating(features, difference=False))
            for name, before, after in (
                ("model", clean, _said(frozen, batch, changed)),
                ("replaced", replaced, _said(frozen, batch, without)),
            ):
                kept = before[1]
                found = {f"lost_in_{name}": ~after[1] & kept, f"drop_in_{name}": (before[0] - after[0]) * kept}
                for kind, rows in (("", kept), ("/synonym", kept & synonym), ("/plain", kept & ~synonym)):
                    values = {measure + kind: value * rows for measure, value in found.items()}
                    records.add(code, values, dict.fromkeys(values, rows))
        stories += [case.story for case in batch.cases]
    return records, stories


def _said(frozen: FrozenLM, batch: CaseBatch, edits: Sequence[Edit]) -> tuple[Tensor, Tensor]:
    """The probability of the answer, and whether it is the likeliest token, `[B]` each."""
    last = frozen.logits(batch.clean, edits, keep=1)[:, -1].float()
    chance = last.softmax(-1).gather(1, batch.answer[:, None])[:, 0]
    return chance.double().cpu(), (last.argmax(-1) == batch.answer).cpu()


def _recording(seen: dict[int, Tensor]) -> Change:
    def change(index: int, active: Active) -> Active:
        seen[index] = active if isinstance(active, Tensor) else active.dense()
        return active

    return change


def _ablating(features: Tensor, difference: bool) -> Change:
    """One feature of each row set to 0 at all of its tokens; or what that takes away."""

    def change(index: int, active: Active) -> Active:
        dense = active if isinstance(active, Tensor) else active.dense()
        values = dense.view(len(features), -1, dense.shape[-1])
        rows = (features[:, 0] == index).nonzero()[:, 0]
        columns = features[rows, 1]
        if difference:
            found = torch.zeros_like(values)
            found[rows, :, columns] = -values[rows, :, columns]
        else:
            found = values.clone()
            found[rows, :, columns] = 0.0
        return found.view_as(dense)

    return change


def _another(batch: CaseBatch, own: Tensor, seen: Mapping[int, Tensor]) -> Tensor:
    """Of each case another feature of the same layer that is active where the fact is needed, the nearest in value."""
    found = own.clone()
    for row, (index, feature) in enumerate(own.tolist()):
        values = seen[index].view(len(own), -1, seen[index].shape[-1])[row, -1]
        distance = (values - values[feature]).abs().masked_fill(values <= 0, torch.inf)
        distance[feature] = torch.inf
        found[row, 1] = int(distance.argmin())
    return found
