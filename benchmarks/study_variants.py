"""The variants of the study: one change each to a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RECIPE, START_ALONE, NO_START = "the recipe", "warm start alone", "warm start none"
SHARED, OWN = "shared", "own"
GROUPS = {
    SHARED: "from one and the same warm start, at equal seconds behind it",
    OWN: "each with a warm start of its own, at the recipe's steps",
}
LENGTHS = (2, 4, 8, 16)
TEXTS = ("context", "continuation", "onward", "span", "summary")


@dataclass(frozen=True)
class Variant:
    """
    Args:
        name: of the row.
        changes: fields of the recipe with other values.
        start: name of the variant whose warm start it begins from; None for no warm start.
        functional: whether it is trained behind the warm start.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    start: str | None = RECIPE
    functional: bool = True

    @property
    def group(self) -> str:
        return SHARED if self.start == RECIPE else OWN

    @property
    def slug(self) -> str:
        return "".join(c if c.isalnum() or c == "." else "-" for c in self.name)


def own(name: str, changes: Mapping[str, Any]) -> Variant:
    """What changes the warm start, too."""
    return Variant(name, changes, start=name)


def variants_of(recipe: Mapping[str, Any]) -> dict[str, Variant]:
    """By name. What the recipe has already is the row of the recipe, and no other.

    Args:
        recipe: every field with its value.
    """
    no_reward = {"ground_weight": "0"}  # which only a policy can learn from
    soft = {"temperature": 0.3, "decoder_learning_rate": 3e-5} | no_reward  # with more, gradients destroy texts
    found = [
        Variant(START_ALONE, functional=False),
        Variant(RECIPE),
        Variant("KL alone", {"mse_weight": "0"}),
        Variant("MSE alone", {"kl_weight": "0"}),
        Variant("no LM term", {"lm_weight": "0"}),
        Variant("no grounding", no_reward),
        *(Variant(f"delta {kind}", {"delta": kind}) for kind in ("off", "stopgrad", "grad")),
        Variant("estimator policy", {"estimator": "policy"}),
        Variant("estimator parallel", {"estimator": "parallel", **soft}),
        Variant("estimator sequential", {"estimator": "sequential", **soft}),
        Variant("decoder frozen", {"estimator": "none"} | no_reward),
        Variant(NO_START, {"warm_start": "none", "warm_foresight": 0}, start=None),
        *(own(f"warm start {text}", {"warm_start": text, "warm_foresight": 0}) for text in TEXTS),
        own("guesses and all", {"warm_sure": 0.0}),
        own("guesses below .1", {"warm_sure": 0.1}),
        own("guesses below .5", {"warm_sure": 0.5}),
        own("injection embedding", {"injection": "embedding"}),
        own("injection residual", {"injection": "residual"}),
    ]
    if recipe.get("warm_vague") is not None:
        found.append(own("guesses cut, no general word", {"warm_vague": None}))
    for length in LENGTHS:
        name = f"T = {length}"
        changes = {"code_length": length} | ({"warm_foresight": 0} if length < 3 else {})  # no room for evidence
        found.append(own(name, changes))
        found.append(Variant(f"{name}, warm start alone", changes, start=name, functional=False))
    return {v.name: v for v in found if not v.changes or any(recipe[name] != new for name, new in v.changes.items())}
