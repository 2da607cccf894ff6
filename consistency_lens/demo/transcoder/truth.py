"""What the offline world knows about a transcoder, as numbers of its report: each with an interval and controls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from consistency_lens.demo.stories import Story, stories
from consistency_lens.demo.transcoder import ablation, hops, needed
from consistency_lens.demo.transcoder.candidates import Activations, directions, features, neurons
from consistency_lens.demo.transcoder.cases import cases_of
from consistency_lens.demo.transcoder.finding import SCORES, Best, Counts, look
from consistency_lens.demo.transcoder.labels import FACTS, Labels, labels_of
from consistency_lens.errors import BadInput
from consistency_lens.evaluation.bootstrap import Number, Records, Samples
from consistency_lens.evaluation.quantities import Numbers
from consistency_lens.evaluation.report import Report
from consistency_lens.frozen import FrozenLM
from consistency_lens.sparse.modeling import CrosslayerTranscoder
from consistency_lens.sparse.report.ablating import mean_ablated
from consistency_lens.sparse.report.controls import random_twin, shuffled

START = 3_000_000_000  # stories that nothing was trained, chosen or reported on
TOLD, CASES = 400, 64
HIGH = 0.9  # a fact has its feature from this score on
LENS, RANDOM, NEURONS, PCA = "lens", "random", "neurons", "pca"
_WHICH = {"said": "tokens that say it, in any wording", "needed": "tokens behind which it is needed"}
_OF = {"f1": "F1", "mcc": "Matthews's correlation"}
_BEST = {
    f"{score}_{which}": f"{_OF[score]} of the best single feature for each fact ({where}), the mean over facts; "
    "feature and threshold are chosen on one half of the stories and measured on the other"
    for score in SCORES
    for which, where in _WHICH.items()
}
DEFINITIONS = {
    **_BEST,
    **{f"{name}_high": f"share of the facts of which {name} is {HIGH} or more" for name in _BEST},
    **needed.DEFINITIONS,
    **ablation.DEFINITIONS,
    **{
        f"{name}/{kind}": f"{name}, {where}" for name in ablation.DEFINITIONS for kind, where in ablation.KINDS.items()
    },
    **hops.DEFINITIONS,
}


@dataclass(frozen=True)
class Truth:
    """What was found.

    Args:
        numbers: code -> its numbers. Codes are the lens, its controls, and `model`, the untouched one.
        stories: how many were told.
        chosen: fact -> layer, feature and F1 where it was chosen, of the feature that says best where it is needed.
    """

    numbers: dict[str, Numbers]
    stories: int
    chosen: dict[tuple[str, str], tuple[int, int, float]]


def measure_truth(
    lens: CrosslayerTranscoder,
    frozen: FrozenLM,
    others: Mapping[str, CrosslayerTranscoder] | None = None,
    told: int = TOLD,
    cases: int = CASES,
    seed: int = 0,
) -> Truth:
    """Look for facts in features, and for features in what the model does.

    Args:
        lens: a transcoder of the offline model.
        frozen: that model.
        others: further transcoders to be measured beside it, by name.
        told: how many new stories; half of them to choose on.
        cases: needed facts, at most, on which features are ablated and steps are followed.
        seed: of the world, of random weights and of the draws.
    """
    if told < 4 or cases < 1:
        raise BadInput("told" if told < 4 else "cases", told if told < 4 else cases, "Use more.")
    lens.config.require_subject(frozen)
    world = stories(told, seed, START)
    first, second = world[: told // 2], world[told // 2 :]
    known, found = (Activations.of(frozen, lens, half) for half in (first, second))
    labels = labels_of(first), labels_of(second)
    l0 = float(np.mean([float((values > 0).sum(1).double().mean()) for _, values in features(lens, known)]))
    twins = {RANDOM: random_twin(lens, l0, seed), **(others or {})}
    groups: dict[str, tuple[Callable[[], Iterator[tuple[int, Tensor]]], ...]] = {
        name: (partial(features, each, known), partial(features, each, found))
        for name, each in {LENS: lens, **twins}.items()
    }
    groups[NEURONS] = partial(neurons, frozen, lens, known), partial(neurons, frozen, lens, found)
    groups[PCA] = partial(directions, known, known), partial(directions, known, found)
    numbers: dict[str, Numbers] = {}
    chosen: dict[int, tuple[int, int]] = {}
    scores: dict[tuple[str, str], tuple[int, int, float]] = {}
    for name, (choose_on, measure_on) in groups.items():
        bests, numbers[name] = _facts(choose_on, measure_on, labels, seed)
        if name == LENS:
            best = bests["needed"]["f1"]
            for fact in (best.group >= 0).nonzero()[:, 0].tolist():
                chosen[fact] = int(best.group[fact]), int(best.column[fact])
                layer = lens.config.window[chosen[fact][0]]
                scores[FACTS[fact]] = layer, chosen[fact][1], float(best.score[fact])
    _add(numbers, *_said(frozen, lens, twins, world, known, seed), seed)
    some = cases_of(second, cases)
    _add(numbers, *ablation.ablations(frozen, lens, some, chosen), seed)
    _add(numbers, *hops.hops(frozen, {LENS: lens, **twins}, some), seed)
    return Truth(numbers, told, scores)


def with_truth(report: Report, truth: Truth) -> Report:
    """A report with what the world knows, in the table of what is judged."""
    remark = (
        f"Where the truth is known: {truth.stories} new stories. Features and thresholds were chosen on half of them "
        "and measured on the others, on which features were ablated and steps followed, too."
    )
    return replace(
        report,
        judged={**report.judged, **truth.numbers},
        definitions={**report.definitions, **DEFINITIONS, **CODES},
        remarks=[*report.remarks, remark],
    )


CODES = {
    NEURONS: "neurons: what the last layer of each MLP reads, and its negative",
    PCA: "principal directions of what the lens reads, both ways",
    needed.MODEL: "the untouched model",
    ablation.ANOTHER: "another feature of the same layer, active where the fact is needed, the nearest in value",
}


def _facts(
    choose_on: Callable[[], Iterator[tuple[int, Tensor]]],
    measure_on: Callable[[], Iterator[tuple[int, Tensor]]],
    labels: tuple[Labels, Labels],
    seed: int,
) -> tuple[dict[str, dict[str, Best]], Numbers]:
    """The best candidates by label and score, and their numbers on the other half."""
    bests = {which: {score: Best.none(len(FACTS)) for score in SCORES} for which in _WHICH}
    for group, values in choose_on():
        for which, best in bests.items():
            look(best, group, values, vars(labels[0])[which])
    found: dict[str, Number | None] = {}
    for which, best in bests.items():
        for score, each in best.items():
            counts = Counts.of(each, measure_on(), vars(labels[1])[which], labels[1].document)
            known = (each.group >= 0).numpy()
            mean, share = counts.numbers(score, known, HIGH, seed)
            found |= {f"{score}_{which}": mean, f"{score}_{which}_high": share}
    return bests, {name: number for name, number in found.items() if number is not None}


def _said(
    frozen: FrozenLM,
    lens: CrosslayerTranscoder,
    twins: Mapping[str, CrosslayerTranscoder],
    world: Sequence[Story],
    known: Activations,
    seed: int,
) -> tuple[Records, list[int]]:
    """Needed facts under the lens, its twins, features of other tokens and mean activations."""
    codes: dict[str, Any] = {name: each.replaced for name, each in {LENS: lens, **twins}.items()}
    codes["shuffled"] = lambda batch: shuffled(lens, batch, seed)
    codes["mean"] = lambda batch: mean_ablated(lens, batch, known.written.mean(0).to(frozen.device))
    return needed.needed_said(frozen, world, codes), list(range(len(world)))


def _add(numbers: dict[str, Numbers], records: Records, documents: Sequence[int], seed: int) -> None:
    """The means of all that was recorded, with intervals over stories."""
    samples = Samples(records, np.array(documents), seed=seed)
    for code, measure in records.values:
        number = Number.of(samples.mean(code, measure))
        if number is not None:
            numbers.setdefault(code, {})[measure] = number
