"""The numbers of a transcoder's report, and what its controls are: a sentence for each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...evaluation.bootstrap import Samples, ratio
from ...evaluation.quantities import WHOLE_PASS, Draws, Quantity, loss_recovered, recovered
from ..measuring.rate import BITS, LOSS, WHOLE

SPOILED, ALONE, ERRORS, VALUES = "controls", "each layer alone", "with errors", "values"
THRESHOLDS = "thresholds"
BESIDE = {"per_layer": SPOILED, "jumprelu": THRESHOLDS}  # a transcoder beside the lens -> its group


def unexplained() -> Draws:
    """Σ error / Σ spread, both measures of the code."""

    def draws(samples: Samples, code: str, subset: str) -> np.ndarray | None:
        if not samples.has(code, "error") or not samples.has(code, "spread"):
            return None
        return ratio(samples.total(code, "error", subset), samples.total(code, "spread", subset))

    return draws


def explained() -> Draws:
    """1 - Σ error / Σ spread."""
    rest = unexplained()

    def draws(samples: Samples, code: str, subset: str) -> np.ndarray | None:
        found = rest(samples, code, subset)
        return None if found is None else 1 - found

    return draws


QUANTITIES: Mapping[str, Quantity] = {
    **{name: WHOLE_PASS[name] for name in ("kl", "kl_recovered", "top1", "ce")},
    "ce_loss_score": Quantity(
        "(ce of `zero` - ce) / (ce of `zero` - ce of the clean pass), as SAEBench has it", loss_recovered("zero")
    ),
    "kl_div_score": Quantity("1 - kl / kl of `zero`, as SAEBench has it", recovered("kl", "zero")),
    "ev": Quantity(
        "explained variance, 1 - Σ|y - ŷ|² / Σ|y - E y|² over tokens and coordinates: y is what the untouched model "
        "computes at the written sites, ŷ the reconstruction from what it reads there, E y the mean over the "
        "evaluated tokens",
        explained(),
    ),
    "fvu": Quantity("fraction of variance unexplained, 1 - ev", unexplained()),
    "rate": Quantity(
        "bits per token: Σ_l [log2 C(F, k_l) + k_l b], k_l of the F features of layer l active; b, under "
        "`value_bits`, is the fewest of "
        + ", ".join(map(str, BITS))
        + f" bits per value at which kl_recovered falls by at most {LOSS} ({WHOLE} where none of them will do)"
    ),
    "l0": Quantity("active features per token and layer; of the lens, the mean over its layers"),
    "dead": Quantity("share of features that are active on none of the evaluated tokens"),
}
CODES = {
    "self": "each site's own value: the replacement itself does nothing",
    "mean": "the mean training activation at every site: what scores 0",
    "zero": "zeros at every site",
    "shuffled": "the lens's features of another token of the batch, all layers alike",
    "per_layer": "per-layer transcoders with as many parameters, trained on the same tokens for as many steps",
    "jumprelu": "the lens with one threshold per layer in the place of its TopK, as it is shipped",
    "random": "a transcoder with random weights and as many active features per layer",
    "with_errors": "the lens with error nodes: y - ŷ of the clean pass is added at every site, so that nothing is "
    "left to differ but rounding",
    "pca": "each site's own value in as many principal components as features are active per layer, fitted on "
    "training tokens; it reads what it writes",
}

TRAITS = {
    "value_bits": "b of `rate`: bits of the value of an active feature",
    "reach": "share of what features write, Σ f² |W_dec|² in standardised space, that goes to layers above their own",
    "reach_random": "the same of the transcoder with random weights",
}


def of_bits(bits: int) -> str:
    """The name of the code whose values have so many bits."""
    return f"values_{bits}"


def of_layer(layer: int) -> str:
    """The name of the code that replaces one site alone."""
    return f"layer_{layer}"
