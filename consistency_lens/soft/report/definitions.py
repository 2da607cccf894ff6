"""The numbers of a wire's report, and what its controls are: a sentence for each."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...evaluation.bootstrap import Samples, ratio
from ...evaluation.quantities import Draws, Quantity, recovered

SPOILED, SHORT, READ = "controls", "truncated", "edits, no code"
TRUNCATED = ("first", "last", "thinned")
CODES = {
    "text": "the embeddings of the whole passage in the place of the code: what nothing can beat by much",
    "none": "no context: the prompt alone",
    "first": "the passage's first tokens, as many as the code has vectors",
    "last": "the passage's last tokens, as many",
    "thinned": "evenly spaced tokens of the passage, as many",
    "shuffled": "the code of another passage of the batch",
    "mean": "each vector the mean of all vectors of the batch",
}


def between(measure: str) -> Draws:
    """(none - x) / (none - text): 1 is the text, 0 is no context."""

    def draws(samples: Samples, code: str, subset: str) -> np.ndarray | None:
        if not all(samples.has(each, measure) for each in (code, "none", "text")):
            return None
        own, none, text = (samples.mean(each, measure, subset) for each in (code, "none", "text"))
        return ratio(none - own, none - text)

    return draws


def quantities_of(receivers: Iterable[str]) -> dict[str, Quantity]:
    """The numbers in the mean over the receivers, and of each of them alone."""
    names = list(receivers)
    found: dict[str, Quantity] = {}
    for suffix in ("", *(f"/{name}" for name in names)):
        who = f", {suffix[1:]} alone" if suffix else ", in the mean over the receivers"
        found |= {
            f"kl{suffix}": Quantity(
                f"mean KL from what the text-prompted model predicts, in nats per answer token{who}"
            ),
            f"kl_recovered{suffix}": Quantity(
                f"1 - kl / kl of `none`: 1 is the text, 0 is no context{who}", recovered(f"kl{suffix}", "none")
            ),
            f"top1{suffix}": Quantity(f"how often the likeliest next token of an answer stays that of the text{who}"),
            f"nll{suffix}": Quantity(
                f"nats per answer token, teacher-forced, the end of the answer included where it has one{who}"
            ),
            f"nll_recovered{suffix}": Quantity(
                f"(nll of `none` - nll) / (nll of `none` - nll of `text`){who}", between(f"nll{suffix}")
            ),
            f"first_token{suffix}": Quantity(f"share of answers whose first token is the likeliest one{who}"),
            f"em{suffix}": Quantity(
                f"share of greedy answers that equal an accepted one, by SQuAD's normalisation{who}"
            ),
            f"f1{suffix}": Quantity(f"F1 over the words of greedy answers and accepted ones, the best of these{who}"),
        }
    return found
