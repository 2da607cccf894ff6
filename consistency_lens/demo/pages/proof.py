"""That a page which has been turned is one activation: what can be read there, and what later tokens say without it.

Shapes: N stories, S columns of a page, d hidden size.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from consistency_lens.demo.pages.writing import PAGE, SEAL
from consistency_lens.demo.probe import LinearProbe
from consistency_lens.demo.stories import Story
from consistency_lens.demo.training import pad_batch
from consistency_lens.demo.words import wordings
from consistency_lens.evaluation.bootstrap import Number, Records, Samples
from consistency_lens.frozen import Edit, FrozenLM

QUIET = 16  # tokens behind the seal that say nothing of a fact which counts as held and not needed
LATER = 20  # tokens behind the seal from which on a need counts as late
TRAIN_SHARE = 0.7
BATCH = 64
SHARE = "share"
UNTOUCHED, MEAN, OTHER, REST = "untouched", "mean", "other", "rest"


@dataclass(frozen=True)
class Proof:
    """Shares of facts, each with its 95 % interval over stories that taught no probe.

    Args:
        held: facts of the first page that the next `QUIET` tokens do not say and a linear probe reads at its seal;
            chance is .1.
        before_turning: the same from the embedding of the seal.
        behind: the same from the first token of the next page, at the same site: nothing has arrived there yet.
        said: of facts needed `LATER` or more tokens behind the seal, those that the model says.
        said_by: the same with an activation replaced: the seal's by the `mean`, by that of the `other` story beside
            it; or those of the `rest` of the page by their mean, the seal's left alone.
    """

    held: Number
    before_turning: Number
    behind: Number
    said: Number
    said_by: dict[str, Number]


@torch.no_grad()
def prove_bottleneck(frozen: FrozenLM, site: str, rows: Sequence[Story], seed: int = 0) -> Proof:
    """
    Args:
        frozen: the model.
        site: whose activation at the seal is all that later tokens know.
        rows: stories that the model was not trained on.
        seed: of the split and of the bootstrap.
    """
    order = list(range(len(rows)))
    random.Random(f"pages/split/{seed}").shuffle(order)
    test = sorted(order[int(TRAIN_SHARE * len(rows)) :])
    records = Records()
    for name, where, position in (("held", site, SEAL), ("before", "embed", SEAL), ("behind", site, PAGE)):
        vectors = read_at(frozen, where, rows, position)
        records.add(name, *_read(vectors, rows, order, test))
    means = _means(frozen, site, rows)
    for name in (UNTOUCHED, MEAN, OTHER, REST):
        records.add(name, *_said(frozen, site, [rows[i] for i in test], means, name))
    samples = Samples(records, np.array(test), seed=seed)
    share = {name: _number(samples, name) for name in ("held", "before", "behind", UNTOUCHED, MEAN, OTHER, REST)}
    replaced = {name: share[name] for name in (MEAN, OTHER, REST)}
    return Proof(share["held"], share["before"], share["behind"], share[UNTOUCHED], replaced)


def read_at(frozen: FrozenLM, site: str, rows: Sequence[Story], position: int) -> Tensor:
    """The activation of each story at one position, `[N, d]`."""
    found = []
    for first in range(0, len(rows), BATCH):
        ids = [frozen.tokenizer(row.text)["input_ids"][: position + 1] for row in rows[first : first + BATCH]]
        found.append(frozen.read({"input_ids": torch.tensor(ids)}, site)[site][:, -1].float().cpu())
    return torch.cat(found)


def _means(frozen: FrozenLM, site: str, rows: Sequence[Story]) -> Tensor:
    """The mean activation at each position of the first page, `[S, d]`."""
    ids = torch.tensor([frozen.tokenizer(row.text)["input_ids"][:PAGE] for row in rows])
    sums = [frozen.read({"input_ids": part}, site)[site].float().cpu().sum(0) for part in ids.split(BATCH)]
    return torch.stack(sums).sum(0) / len(ids)


def unneeded(row: Story, quiet: int = QUIET) -> list[int]:
    """Numbers of the facts of the first page that the next `quiet` tokens do not say."""
    near = set(row.words[SEAL : SEAL + quiet])
    return [i for i, fact in enumerate(row.facts) if not near & set(wordings(fact.kind, fact.value))]


def _number(samples: Samples, name: str) -> Number:
    number = Number.of(samples.mean(name, SHARE))
    assert number is not None
    return number


def _read(
    vectors: Tensor, rows: Sequence[Story], order: Sequence[int], test: Sequence[int]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of each test story: how many unneeded facts the probes read, and how many there are."""
    apart = set(test)
    readings: dict[str, list[tuple[int, str]]] = {}
    for i in order:
        if i not in apart:
            for fact in rows[i].facts:
                readings.setdefault(fact.kind, []).append((i, fact.value))
    probes = {
        kind: LinearProbe.fit(vectors[[i for i, _ in known]], [value for _, value in known])
        for kind, known in readings.items()
    }
    right, count = torch.zeros(len(test)), torch.zeros(len(test))
    for k, i in enumerate(test):
        for number in unneeded(rows[i]):
            fact = rows[i].facts[number]
            count[k] += 1
            right[k] += fact.kind in probes and probes[fact.kind].predict(vectors[i : i + 1])[0] == fact.value
    return {SHARE: right}, {SHARE: count}


def _said(
    frozen: FrozenLM, site: str, rows: Sequence[Story], means: Tensor, replaced: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of each story: how many facts that are needed late the model says, and how many there are."""
    right, count = torch.zeros(len(rows)), torch.zeros(len(rows))
    for first in range(0, len(rows), BATCH):
        part = rows[first : first + BATCH]
        batch = pad_batch(frozen.tokenizer([row.text for row in part])["input_ids"], frozen.tokenizer.pad_token_id)
        logits = frozen.logits(batch, _edits(frozen, site, batch, means, replaced)).cpu()
        for k, row in enumerate(part):
            for spot in row.fact_positions:
                if spot.position - SEAL >= LATER:
                    count[first + k] += 1
                    said = int(logits[k, spot.position].argmax())
                    right[first + k] += said == int(batch["input_ids"][k, spot.position + 1])
    return {SHARE: right}, {SHARE: count}


def _edits(frozen: FrozenLM, site: str, batch: dict[str, Tensor], means: Tensor, replaced: str) -> list[Edit]:
    """What takes the place of activations of the first page."""
    stories = len(batch["input_ids"])
    if replaced == MEAN:
        return [Edit(site, means[SEAL].expand(stories, -1), SEAL)]
    if replaced == OTHER:
        return [Edit(site, frozen.read(batch, site)[site][:, SEAL].roll(1, 0), SEAL)]
    if replaced == REST:
        return [Edit(site, means[column].expand(stories, -1), column) for column in range(SEAL)]
    return []
