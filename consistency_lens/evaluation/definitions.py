"""What every published number and every control means, in a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

NUMBERS = {
    "kl": "mean KL(M(A) || M(Â)) at P, in nats: how far the subject's next token moves when Â takes A's place",
    "kl_recovered": "1 - KL(M(A) || M(Â)) / KL(M(A) || M(μ)), μ the mean training activation: 1 is perfect, 0 is the "
    "mean, negative is harm",
    "kl_horizon": "mean KL over P and the next {k} positions of the true continuation, in nats",
    "kl_horizon_recovered": "kl_recovered of kl_horizon: what A goes on doing, the next token included",
    "kl_after": "mean KL over the next {k} positions alone, without P: what A goes on doing after the next token",
    "kl_after_recovered": "kl_recovered of kl_after",
    "loss_recovered": "1 - ΔCE(Â) / ΔCE(resample), CE the cross-entropy on the true next token, Δ over the clean pass",
    "top1": "how often the likeliest next token stays the same",
    "fve": "1 - Σ|A - Â|² / Σ|A - μ|², on raw vectors",
    "fve_nrm": "fve of vectors scaled to unit norm, μ then their mean over the evaluated rows",
    "cosine": "cos(A, Â)",
    "norm_ratio": "|Â| / |A|",
}
TRAITS = {
    "text_nll": "nats per token of the text under the subject, behind the decoder's prompt without the activation",
    "sample_nll": "nats per token of the subject's own samples of the same length",
    "excerpt_nll": "nats per token of what the subject itself says next, sampled, of the same length, and judged like "
    "text_nll: without the context it belongs to",
    "text_nll_above_excerpts": "text_nll minus excerpt_nll: how much less natural the text is than an excerpt from "
    "the middle of what M says",
    "text_nll_above_samples": "text_nll minus sample_nll: how much less natural the text is than what M itself says",
    "length": "tokens of the text",
    "repetition": "share of a text's pairs of neighbouring tokens that have come before in it",
    "round_trip": "how often the printed text, tokenised again, is the same tokens",
    "retrieval": "how often M, given the text, picks its own context among 4 by likelihood; chance is .25",
    "distinct": "different explanations, over all, in blocks of at most 500 rows",
    "distinct_1": "different words, over all words, of 500 explanations",
    "distinct_2": "different pairs of neighbouring words, over all pairs, of 500 explanations",
}
CODES = {
    "lens": "the lens: A to a code and back",
    "self": "A in its own place: the swap itself does nothing",
    "mean": "the mean training activation",
    "zero": "a vector of zeros",
    "resample": "the activation of another document",
    "noise": "a random direction at the norm of A",
    "shuffled_activation": "the lens's code of another document's activation",
    "empty_text": "no text at all",
    "random_text": "random tokens",
    "other_text": "the end of another document's context",
    "context_tail": "the last tokens of A's own context, read by the lens's own encoder",
    "context_tail_trained": "the last tokens of A's own context, read by an encoder trained on them with the same "
    "objective and budget",
    "own_continuation": "what the subject itself says next: it looks ahead, and is what one gets without a lens",
    "token_shuffle": "the lens's tokens in another order",
    "paraphrase": "the lens's text, rewritten by the subject",
    "reworded": "the lens's text in other words and another order, by a world that knows its synonyms",
}
_TRUNCATED = re.compile(r"truncation_(\d+)")


def of_number(name: str, horizon: int) -> str:
    return NUMBERS[name].format(k=horizon)


def of_trait(name: str) -> str:
    return TRAITS.get(name, "a trait of the code, as its family measures it")


def of_code(name: str) -> str:
    if cut := truncation(name):
        return f"the first {cut} token{'s' if cut > 1 else ''} of the lens's text"
    return CODES.get(name, "a control of this family of lenses")


def truncation(name: str) -> int | None:
    """How many tokens a truncated code keeps, if the name says so."""
    found = _TRUNCATED.fullmatch(name)
    return int(found[1]) if found else None


def collect(codes: Iterable[str], traits: Iterable[str], judged: Mapping[str, str], horizon: int) -> dict[str, str]:
    """Name -> definition of all that a report holds."""
    numbers = {name: of_number(name, horizon) for name in NUMBERS if horizon or not _needs_horizon(name)}
    return {
        **numbers,
        **{name: of_trait(name) for name in traits},
        **judged,
        **{name: of_code(name) for name in codes},
    }


def _needs_horizon(name: str) -> bool:
    return name.startswith(("kl_horizon", "kl_after"))
