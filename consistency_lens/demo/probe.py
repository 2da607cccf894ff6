"""Where the frozen model holds a fact: linear probes on what `FrozenLM.read` gives, each beside its controls."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from consistency_lens.demo.stories import Story
from consistency_lens.frozen import FrozenLM

DEMO_SITE = "resid_post.2"  # .99 of needed facts are read there, with one layer left above the swap
RIDGE = 1e-3
EARLY = 2  # the early control reads so many tokens before the fact is stated
TRAIN_SHARE = 0.7


@dataclass(frozen=True)
class SiteProbe:
    """How well a linear map reads the needed fact at one site, with a 95 % interval over stories.

    `shuffled` is the same probe taught on labels that were shuffled among facts of the same kind; `early` is a probe
    for the same fact before it was stated. Both know the kind at most, so both should be near `chance`.
    """

    site: str
    accuracy: float
    low: float
    high: float
    shuffled: float
    early: float
    chance: float
    num_positions: int


@dataclass(frozen=True)
class LinearProbe:
    """A ridge classifier: standardise, map, take the highest."""

    classes: tuple[Hashable, ...]
    mean: Tensor
    scale: Tensor
    weight: Tensor  # [d + 1, classes]

    @classmethod
    def fit(cls, x: Tensor, labels: Sequence[Hashable]) -> LinearProbe:
        """Closed form: one-hot targets, least squares with a small ridge."""
        classes = tuple(sorted(set(labels), key=str))
        number = {label: i for i, label in enumerate(classes)}
        x = x.double()
        mean, scale = x.mean(0), x.std(0).clamp_min(1e-6)
        features = cls._features(x, mean, scale)
        target = torch.nn.functional.one_hot(torch.tensor([number[label] for label in labels]), len(classes)).double()
        gram = features.T @ features / len(features) + RIDGE * torch.eye(features.shape[1], dtype=torch.double)
        return cls(classes, mean, scale, torch.linalg.solve(gram, features.T @ target / len(features)))

    @staticmethod
    def _features(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        """Standardised, with a column of ones."""
        return torch.cat([(x - mean) / scale, torch.ones(len(x), 1, dtype=torch.double)], dim=1)

    def scores(self, x: Tensor) -> Tensor:
        """One column for each class; about the probability of the class, not quite a probability."""
        return self._features(x.double(), self.mean, self.scale) @ self.weight

    def predict(self, x: Tensor) -> list[Hashable]:
        """The most likely class of each row."""
        return [self.classes[i] for i in self.scores(x).argmax(1).tolist()]


@dataclass(frozen=True)
class _Reading:
    """One activation to be read: which story, at which position, and what it should hold."""

    story: int
    position: int
    label: tuple[str, str]


def site_names(frozen: FrozenLM) -> list[str]:
    """The places a fact may have reached, from below to above."""
    return ["embed", *(f"resid_post.{layer}" for layer in range(frozen.num_layers))]


def probe_sites(frozen: FrozenLM, rows: Sequence[Story], seed: int = 0) -> list[SiteProbe]:
    """For each site: can the fact that the next token needs be read there?"""
    needed = [
        _Reading(i, spot.position, (row.facts[spot.fact].kind, row.facts[spot.fact].value))
        for i, row in enumerate(rows)
        for spot in row.fact_positions
    ]
    early = [
        _Reading(i, row.facts[spot.fact].stated_at - EARLY, (row.facts[spot.fact].kind, row.facts[spot.fact].value))
        for i, row in enumerate(rows)
        for spot in row.fact_positions
        if row.facts[spot.fact].stated_at >= EARLY
    ]
    sites = site_names(frozen)
    at_need, at_early = _gather(frozen, rows, needed, sites), _gather(frozen, rows, early, sites)
    shuffled = _shuffle_within_kind(needed, seed)
    table = []
    for site in sites:
        accuracy, low, high, count = held_out_accuracy(at_need[site], needed, len(rows), seed)
        table.append(
            SiteProbe(
                site=site,
                accuracy=accuracy,
                low=low,
                high=high,
                shuffled=held_out_accuracy(at_need[site], shuffled, len(rows), seed)[0],
                early=held_out_accuracy(at_early[site], early, len(rows), seed)[0],
                chance=_chance(needed),
                num_positions=count,
            )
        )
    return table


def held_out_accuracy(
    x: Tensor, readings: Sequence[_Reading], num_stories: int, seed: int
) -> tuple[float, float, float, int]:
    """Fit on some stories, score on the others: the accuracy, a 95 % interval over stories, the count."""
    order = list(range(num_stories))
    random.Random(f"split/{seed}").shuffle(order)
    train_stories = set(order[: int(TRAIN_SHARE * num_stories)])
    train = [i for i, reading in enumerate(readings) if reading.story in train_stories]
    test = [i for i, reading in enumerate(readings) if reading.story not in train_stories]
    probe = LinearProbe.fit(x[train], [readings[i].label for i in train])
    hits = [predicted == readings[i].label for predicted, i in zip(probe.predict(x[test]), test, strict=True)]
    by_story: dict[int, tuple[int, int]] = {}
    for hit, i in zip(hits, test, strict=True):
        right, count = by_story.get(readings[i].story, (0, 0))
        by_story[readings[i].story] = (right + hit, count + 1)
    low, high = _bootstrap(list(by_story.values()), seed)
    return sum(hits) / len(hits), low, high, len(hits)


def _bootstrap(by_story: list[tuple[int, int]], seed: int, rounds: int = 1000) -> tuple[float, float]:
    """A 95 % interval that resamples whole stories, since the positions of one story go together."""
    pairs = torch.tensor(by_story, dtype=torch.double)
    chosen = torch.randint(len(pairs), (rounds, len(pairs)), generator=torch.Generator().manual_seed(seed))
    right, count = pairs[chosen].sum(1).unbind(1)
    low, high = torch.quantile(right / count, torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return low, high


def _chance(readings: Sequence[_Reading]) -> float:
    """The best one can do who knows the kind and nothing else: always its commonest value."""
    counts: dict[str, dict[str, int]] = {}
    for reading in readings:
        kind, value = reading.label
        of_kind = counts.setdefault(kind, {})
        of_kind[value] = of_kind.get(value, 0) + 1
    return sum(max(of_kind.values()) for of_kind in counts.values()) / len(readings)


def _shuffle_within_kind(readings: Sequence[_Reading], seed: int) -> list[_Reading]:
    """The same positions with the values of each kind dealt out anew."""
    rng = random.Random(f"shuffle/{seed}")
    values: dict[str, list[str]] = {}
    for reading in readings:
        values.setdefault(reading.label[0], []).append(reading.label[1])
    for of_kind in values.values():
        rng.shuffle(of_kind)
    return [_Reading(r.story, r.position, (r.label[0], values[r.label[0]].pop())) for r in readings]


def _gather(
    frozen: FrozenLM, rows: Sequence[Story], readings: Sequence[_Reading], sites: list[str], batch_size: int = 64
) -> dict[str, Tensor]:
    """The activation of every reading at every site, `[readings, d]`, in the order of `readings`."""
    wanted: dict[int, list[int]] = {}
    for number, reading in enumerate(readings):
        wanted.setdefault(reading.story, []).append(number)
    order = sorted(wanted)
    parts: dict[str, list[Tensor]] = {site: [] for site in sites}
    numbers: list[int] = []
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        width = max(len(wanted[story]) for story in chosen)
        batch = frozen.tokenizer([rows[story].text for story in chosen], padding=True, return_tensors="pt")
        positions = torch.zeros(len(chosen), width, dtype=torch.long)
        keep = torch.zeros(len(chosen), width, dtype=torch.bool)
        for i, story in enumerate(chosen):
            for k, number in enumerate(wanted[story]):
                positions[i, k], keep[i, k] = readings[number].position, True
                numbers.append(number)
        found = frozen.read(batch, sites, positions)
        for site in sites:
            parts[site].append(found[site][keep].float().cpu())
    inverse = torch.tensor(numbers).argsort()
    return {site: torch.cat(part)[inverse] for site, part in parts.items()}
