"""The numbers of a report: what each of them means, and how it is made of sums over rows. Each formula stands once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from .bootstrap import Number, Samples, ratio

ROW = "row"  # the code of what does not depend on a code: spread of A, cross-entropy of the clean pass
Numbers = dict[str, Number]
Draws = Callable[[Samples, str, str], "np.ndarray | None"]


@dataclass(frozen=True)
class Quantity:
    """One number, which every code has.

    Args:
        definition: a sentence; `{k}` in it stands for the horizon.
        draws: samples, code and subset -> the number and its draws `[1 + R]`, or None where its parts were not
            measured. Default: the mean of the measure of the same name.
        beyond: the number needs a horizon.
    """

    definition: str
    draws: Draws | None = None
    beyond: bool = False


def recovered(measure: str, baseline: str = "mean") -> Draws:
    """1 - measure / measure of the baseline: the share of the baseline's harm that a code avoids."""

    def draws(samples: Samples, code: str, subset: str) -> np.ndarray | None:
        if not samples.has(code, measure) or not samples.has(baseline, measure):
            return None
        return 1 - ratio(samples.mean(code, measure, subset), samples.mean(baseline, measure, subset))

    return draws


def loss_recovered(baseline: str) -> Draws:
    """1 - ΔCE / ΔCE of the baseline, Δ over the clean pass."""

    def draws(samples: Samples, code: str, subset: str) -> np.ndarray | None:
        if not all(samples.has(each, "ce") for each in (code, baseline, ROW)):
            return None
        clean = samples.total(ROW, "ce", subset)
        rise, of_baseline = (samples.total(each, "ce", subset) - clean for each in (code, baseline))
        return 1 - ratio(rise, of_baseline)

    return draws


def explained(error: str, spread: str) -> Draws:
    """1 - Σ error / Σ spread, the spread a measure of the rows."""

    def draws(samples: Samples, code: str, subset: str) -> np.ndarray | None:
        if not samples.has(code, error) or not samples.has(ROW, spread):
            return None
        return 1 - ratio(samples.total(code, error, subset), samples.total(ROW, spread, subset))

    return draws


# Of edits at one token P, over P and the tokens that follow.
AT_P: Mapping[str, Quantity] = {
    "kl": Quantity(
        "mean KL(M(A) || M(Â)) at P, in nats: how far the frozen model's next token moves when Â takes A's place"
    ),
    "kl_recovered": Quantity(
        "1 - KL(M(A) || M(Â)) / KL(M(A) || M(μ)), μ the mean training activation: 1 is perfect, 0 is the "
        "mean, negative is harm",
        recovered("kl"),
    ),
    "kl_horizon": Quantity("mean KL over P and the next {k} positions of the true continuation, in nats", beyond=True),
    "kl_horizon_recovered": Quantity(
        "kl_recovered of kl_horizon: what A goes on doing, the next token included", recovered("kl_horizon"), True
    ),
    "kl_after": Quantity(
        "mean KL over the next {k} positions alone, without P: what A goes on doing after the next token", beyond=True
    ),
    "kl_after_recovered": Quantity("kl_recovered of kl_after", recovered("kl_after"), True),
    "loss_recovered": Quantity(
        "1 - ΔCE(Â) / ΔCE(resample), CE the cross-entropy on the true next token, Δ over the clean pass",
        loss_recovered("resample"),
    ),
    "top1": Quantity("how often the likeliest next token stays the same"),
    "fve": Quantity("1 - Σ|A - Â|² / Σ|A - μ|², on raw vectors", explained("squared_error", "spread")),
    "fve_nrm": Quantity(
        "fve of vectors scaled to unit norm, μ then their mean over the evaluated rows",
        explained("direction_error", "direction_spread"),
    ),
    "cosine": Quantity("cos(A, Â)"),
    "cosine_centred": Quantity("cos(A - μ, Â - μ): what all activations share is no part of it"),
    "norm_ratio": Quantity("|Â| / |A|"),
}
# Of edits at many tokens, or of a prompt that differs: over all columns that are compared.
WHOLE_PASS: Mapping[str, Quantity] = {
    "kl": Quantity("mean KL of the edited model's predictions from the clean ones over the compared tokens, in nats"),
    "kl_recovered": Quantity("1 - kl / kl of `mean`: 1 is perfect, 0 is the mean, negative is harm", recovered("kl")),
    "loss_recovered": Quantity(
        "1 - Δce / Δce of `zero`, ce the cross-entropy on the true next tokens, Δ over the clean pass",
        loss_recovered("zero"),
    ),
    "top1": Quantity("how often the likeliest next token stays the same"),
    "ce": Quantity("cross-entropy of the edited model on the true next tokens, in nats"),
}


def of_each(models: Iterable[str]) -> dict[str, Quantity]:
    """The numbers of each of several models; under the plain names are means over the models."""
    each = [(name, model, f"{name} of {model} alone") for model in models for name in ("kl", "kl_recovered", "top1")]
    return {
        f"{name}/{model}": Quantity(definition, recovered(f"kl/{model}") if name == "kl_recovered" else None)
        for name, model, definition in each
    }


@dataclass(frozen=True)
class Measured:
    """Numbers of what was measured. Differences and shares are taken draw by draw, on the same documents.

    Args:
        samples: sums over documents.
        quantities: the numbers that there are.
    """

    samples: Samples
    quantities: Mapping[str, Quantity]

    def draws(self, code: str, name: str, subset: str = "") -> np.ndarray | None:
        """The number and its draws, `[1 + R]`; None where its parts were not measured. A number that is none of the
        quantities is the mean of what was measured under its name."""
        quantity = self.quantities.get(name)
        if quantity is not None and quantity.draws is not None:
            return quantity.draws(self.samples, code, subset)
        return self.samples.mean(code, name, subset) if self.samples.has(code, name) else None

    def numbers(self, code: str, subset: str = "", names: Iterable[str] | None = None) -> Numbers:
        """Every number of one code that was measured; default all quantities."""
        wanted = self.quantities if names is None else names
        return _sound((name, self.draws(code, name, subset)) for name in wanted)

    def differences(self, code: str, other: str, names: Iterable[str], subset: str = "") -> Numbers:
        """`code` minus `other`: an interval above 0 means that they are apart."""
        return _sound((name, self.difference(code, other, name, subset)) for name in names)

    def difference(self, code: str, other: str, name: str, subset: str = "") -> np.ndarray | None:
        """The draws of one such difference."""
        here, there = self.draws(code, name, subset), self.draws(other, name, subset)
        return None if here is None or there is None else here - there

    def retained(self, code: str, whole: str, names: Iterable[str], subset: str = "") -> Numbers:
        """The shares of the numbers of `whole` that a code made from it keeps."""
        return _sound((name, self.share(code, whole, name, subset)) for name in names)

    def share(self, code: str, whole: str, name: str, subset: str = "") -> np.ndarray | None:
        """The draws of one such share; None where there is nothing to keep."""
        here, there = self.draws(code, name, subset), self.draws(whole, name, subset)
        return None if here is None or there is None or there[0] <= 0 else ratio(here, there)


def _sound(found: Iterable[tuple[str, np.ndarray | None]]) -> Numbers:
    """Without what could not be measured."""
    numbers = ((name, None if draws is None else Number.of(draws)) for name, draws in found)
    return {name: number for name, number in numbers if number is not None}


def definitions_of(quantities: Mapping[str, Quantity], horizon: int) -> dict[str, str]:
    """Number -> definition, of those that this horizon allows."""
    return {name: each.definition.format(k=horizon) for name, each in quantities.items() if horizon or not each.beyond}
