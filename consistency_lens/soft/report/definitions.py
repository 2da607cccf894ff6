"""The numbers of a wire's report, and what its controls are: a sentence for each."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...evaluation.bootstrap import Samples, ratio
from ...evaluation.quantities import Draws, Quantity, recovered

SPOILED, SHORT, READ, RATES = "controls", "truncated", "edits, no code", "rates"
TRUNCATED = ("first", "last", "thinned", "least_expected")
EITHER, COMPRESSING = "either", "compressing_seconds"
ROUNDS = 3  # of a clock that count; one in front of them does not
CODES = {
    "text": "the embeddings of the whole passage in the place of the code: what nothing can beat by much",
    "none": "no context: the prompt alone",
    "first": "the passage's first tokens, as many as the code has vectors",
    "last": "the passage's last tokens, as many",
    "thinned": "evenly spaced tokens of the passage, as many",
    "least_expected": "as many tokens of the passage, those that the model itself expected least: token dropping as "
    "LLMLingua does it",
    "either": "the first tokens or the last ones, whichever the answer, which is known, is likelier behind",
    "shuffled": "the code of another passage of the batch",
    "mean": "each vector the mean of all vectors of the batch",
    "foreign": "the same code in other coordinates, turned by a rotation drawn at random: as informative, and of "
    "another compressor's making",
    "untrained": "the code of the passage from the compressor that this one started from, before any training",
    "other_wire": "the code of the passage from the compressor of another wire, which was trained apart from this one",
}

JUDGED = {
    "bytes": "bytes: of a wire with all it has, or of a text as UTF-8, cut ones in the mean over the receivers",
    "em_joint": "em of the answer, of all that the receivers give, that they together find likeliest",
    "f1_joint": "f1 of that answer",
    COMPRESSING: "seconds in which the compressor makes the code of a passage, timed as `seconds` is",
}
ORACLE = {
    "oracle_nll": "nats per answer token behind codes that were fitted to these answers, on a few rows: what can be "
    "read",
    "oracle_first_token": "first_token behind these codes",
    "oracle_gap": "nll of the lens's code minus oracle_nll, on the same rows: what was not written",
}
PREFILL = {
    "prefill": "billions of floating-point operations of a receiver before the first token of its answer, behind the "
    "text or behind a code",
    "cache": "megabytes of its key-value cache then",
}
CLOCKED = {
    "seconds": "seconds until the first token of an answer is chosen: behind the text, for the prefill of text and "
    "prompt; behind a code that lies there, for the adapter and the prefill of soft tokens and prompt. Measured by a "
    f"clock, on a few rows, one at a time, text and code in turn, of each the median of {ROUNDS} rounds; the digits "
    "differ from run to run",
    "seconds_ratio": "seconds behind the text over seconds behind the code, in the mean over these rows: above 1, the "
    "code is the faster one",
}
PLACES = {
    "answer_early": "the answer stands in the first third of its passage",
    "answer_middle": "the answer stands in the middle third of its passage",
    "answer_late": "the answer stands in the last third of its passage",
}


def place_of(passage: str, accepted: Iterable[str]) -> float:
    """Where in a passage an answer begins, from 0 to 1; NaN where none of those accepted stands there."""
    found = [passage.find(answer.strip()) for answer in accepted]
    known = [place for place in found if place >= 0]
    return min(known) / len(passage) if known else float("nan")


def between(measure: str) -> Draws:
    """(none - x) / (none - text): 1 is the text, 0 is no context."""

    def draws(samples: Samples, code: str, subset: str) -> np.ndarray | None:
        if not all(samples.has(each, measure) for each in (code, "none", "text")):
            return None
        own, none, text = (samples.mean(each, measure, subset) for each in (code, "none", "text"))
        return ratio(none - own, none - text)

    return draws


def of_text(measure: str) -> Draws:
    """x / text."""

    def draws(samples: Samples, code: str, subset: str) -> np.ndarray | None:
        if not samples.has(code, measure) or not samples.has("text", measure):
            return None
        return ratio(samples.mean(code, measure, subset), samples.mean("text", measure, subset))

    return draws


def cuts_of(code: str, samples: Samples, measure: str) -> list[str]:
    """The truncations to as many tokens as a code has vectors."""
    size = code.partition(" ")[0]
    names = [f"{how} {size}" for how in ("first", "last")]
    if not any(samples.has(name, measure) for name in names):
        names = list(TRUNCATED)
    return [name for name in names if samples.has(name, measure)]


def above_truncation(measure: str, sign: int) -> Draws:
    """sign * (x - best truncation to as many tokens): above 0, the code is the better one."""

    def draws(samples: Samples, code: str, subset: str) -> np.ndarray | None:
        if not samples.has(code, measure) or code.partition(" ")[0] in CODES:
            return None  # no code of the lens
        cuts = [sign * samples.mean(cut, measure, subset) for cut in cuts_of(code, samples, measure)]
        if not cuts:
            return None
        return sign * samples.mean(code, measure, subset) - max(cuts, key=lambda each: float(each[0]))

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
            f"em{suffix}": Quantity(f"share of answers that equal an accepted one, by SQuAD's normalisation{who}"),
            f"contains{suffix}": Quantity(
                f"share of answers that hold an accepted one as a run of whole words: a match of a part{who}"
            ),
            f"f1{suffix}": Quantity(f"F1 over the words of answers and accepted ones, the best of these{who}"),
            f"f1_of_text{suffix}": Quantity(
                f"f1 over that with the text, as teacher-normalised scores are{who}", of_text(f"f1{suffix}")
            ),
            f"em_above_truncation{suffix}": Quantity(
                f"em minus that of the best truncation to as many tokens{who}", above_truncation(f"em{suffix}", 1)
            ),
            f"nll_below_truncation{suffix}": Quantity(
                f"nll of the best truncation to as many tokens, minus nll{who}", above_truncation(f"nll{suffix}", -1)
            ),
        }
    return found
