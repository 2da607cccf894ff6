"""What a lens gets wrong, in plain words, each with the number that says so; and what nobody has measured."""

from __future__ import annotations

from ...evaluation.about import LENS
from ...evaluation.bootstrap import Number
from ...evaluation.report import Report
from .definitions import AHEAD, REWORDED, TEXT, UNDECODED
from .verdict import BLIND_SHARE, LANGUAGE_SHARE, best_text, few_slots

TRUE_ENOUGH = 0.95  # share of what a text says
FEW = 200  # documents


def limits_of(report: Report, content_blind: bool) -> list[str]:
    """Sentences for the card, the gravest first."""
    finding = [
        _blindness(report, content_blind),
        _confabulation(report),
        _privacy(report),
        _slots(report),
        _looking_ahead(report),
        _sameness(report),
    ]
    return [sentence for sentence in [*finding, _naturalness(report), _size(report)] if sentence]


def _blindness(report: Report, content_blind: bool) -> str:
    numbers = report.parts["all"].numbers
    score, best = numbers[LENS].get("kl_recovered"), best_text(report)
    if score is None:
        return (
            "Its score could not be measured: here the mean activation does no harm, so there is nothing to recover."
        )
    if content_blind:
        texts = [code for code in report.groups[TEXT] if "kl_recovered" in numbers[code]]
        blind = max(texts, key=lambda code: numbers[code]["kl_recovered"].value)
        return (
            f"Content-blind over all rows: {blind} ({report.definitions[blind]}) reaches "
            f"{numbers[blind]['kl_recovered']} where the lens has {score}. Most of the score can be had without "
            "looking at the activation; trust the lens only on rows where the two stand apart."
        )
    if best is None:
        return "Nobody knows what its score is worth: no text control was measured beside it."
    apart = report.parts["all"].differences[best]["kl_recovered"]
    if apart.low <= 0:
        return f"It is not better than {best}, {report.definitions[best]}: the lens minus it is {apart}."
    return ""


def _confabulation(report: Report) -> str:
    judged = report.judged.get(LENS, {})
    precisions = {name: number for name, number in judged.items() if "precision" in name and "/" not in name}
    if not precisions:
        return (
            "How often it makes things up was not measured: nobody knows the truth of these texts. Take what it names "
            "as a hint."
        )
    shown = "; ".join(f"{name} {number} ({report.definitions[name]})" for name, number in precisions.items())
    lowest = min(precisions.values(), key=lambda number: number.value)
    if lowest.value < TRUE_ENOUGH:
        return f"It confabulates: it fills its words with things that were never said. {shown}."
    return f"What it names is mostly true, not always: {shown}."


def _privacy(report: Report) -> str:
    kept = {code: n["kl_recovered"] for code, n in report.retention.items() if "kl_recovered" in n}
    asked = next((code for code in (REWORDED, "paraphrase") if code in kept), None)
    if asked is None:
        if {REWORDED, "paraphrase"} & report.parts["all"].numbers.keys():
            return ""  # they were, and no share of the score can be said
        return "Whether its words are language or a private code was not measured: nothing reworded them."
    if kept[asked].value < LANGUAGE_SHARE:
        return (
            f"Closer to a private code than to language: in other words ({asked}) its texts keep {kept[asked]} of the "
            "score. Do not read meaning into single words."
        )
    if kept[asked].value < BLIND_SHARE:
        return f"Some of what it says is in the choice of words: in other words ({asked}) it keeps {kept[asked]}."
    return ""


def _looking_ahead(report: Report) -> str:
    numbers = report.parts["all"].numbers
    score = numbers[LENS].get("kl_recovered")
    found = {code: numbers.get(code, {}).get("kl_recovered") for code in (AHEAD, *UNDECODED)}
    codes = [(number.value, code) for code, number in found.items() if number is not None]
    if score is None or not codes or max(codes)[0] < score.low:
        return ""
    best = max(codes)[1]
    apart = report.parts["all"].differences.get(best, {}).get("kl_recovered")
    if apart is not None and apart.low > 0:
        return ""
    worse = max(codes)[0] < score.value
    finding = "no need of a lens is shown" if worse else "no lens is needed"
    return (
        f"For the next token alone {finding}: {best}, {report.definitions[best]}, scores {found[best]} where "
        f"the lens has {score}."
    )


def _slots(report: Report) -> str:
    few = few_slots(report)
    if few is None:
        return ""
    slots, share = few
    which = " and ".join(map(str, slots))
    return (
        f"Its texts are a code of {len(slots)} slot{'s' if len(slots) > 1 else ''}: of what replacing one word costs, "
        f"{share:.2f} is lost with word {which}. The others are there for people to read, and carry little."
    )


def _sameness(report: Report) -> str:
    distinct = report.traits.get("distinct")
    if distinct is None or distinct.value >= 0.5:
        return ""
    return f"It says the same words for many activations: distinct is {distinct} ({report.definitions['distinct']})."


def _naturalness(report: Report) -> str:
    above: Number | None = report.traits.get("text_nll_above_samples")
    if above is None or above.low <= 0:
        return ""
    return f"Its words are less natural than the model's own: {above} nats per token above what it would say itself."


def _size(report: Report) -> str:
    documents = report.data["documents"]
    return "" if documents >= FEW else f"Measured on {documents} documents only: look at the intervals."
