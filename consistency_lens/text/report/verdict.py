"""What a report comes to, in words. The first line has to be true for a reader who stops there."""

from __future__ import annotations

from dataclasses import dataclass

from ...evaluation.bootstrap import Number
from ...evaluation.report import Numbers, Report
from ..sceptic.questions import KL_ASKED, RECALL
from .definitions import AHEAD, REWORDED, SHUFFLED, SLOTS, TAIL, TRAINED_TAIL, UNDECODED, slot_of

ASKED = f"{KL_ASKED}_recovered"
BLIND_SHARE = 0.9  # a control that reaches this share of the score is within 10 % of it
LANGUAGE_SHARE = 0.5  # words that keep less than this when reworded are no language
FEW_SLOTS = 2  # words that carry `CARRIED` of what all carry are a code, and no language
CARRIED = 0.9
_DEGREES = ((0.9, "what"), (0.5, "much of what"))
_LEAST = "a little of what"


@dataclass(frozen=True)
class Verdict:
    """The first line, whether it says that the activation hardly mattered, and whether it is good news."""

    sentence: str
    content_blind: bool = False
    good: bool = False


def best_text(report: Report, name: str = "kl_recovered", part: str = "all") -> str | None:
    """The strongest text control that sees neither an activation nor what the frozen model will say."""
    numbers = report.parts[part].numbers
    codes = [c for c in report.groups.get("text", []) if c != SHUFFLED and name in numbers[c]]
    return max(codes, key=lambda code: numbers[code][name].value, default=None)


def verdict_of(report: Report) -> Verdict:
    numbers = report.parts["all"].numbers
    score = numbers["lens"].get("kl_recovered")
    if score is None:
        return Verdict("Nothing to recover: the mean activation in A's place changes nothing that the model says.")
    if score.low <= 0:
        return Verdict(_no_better_than_the_mean(score, numbers["lens"].get("fve")))
    if (blind := _as_good(report, "all")) is not None:
        said = (
            f"Content-blind: kl_recovered is {score}, and {blind} ({report.definitions[blind]}) comes within 10 % of "
        )
        said += f"that at {numbers[blind]['kl_recovered']}, without looking at A"
        return Verdict(f"{said}{_where_it_is_not(report)}.", content_blind=True)
    best = best_text(report)
    if best is None:
        said = (
            f"The codes {_carried(score)}, with no text control beside it that would show what such a score is worth"
        )
        return Verdict(f"{said}.", good=True)
    apart = report.parts["all"].differences[best]["kl_recovered"]
    if apart.low <= 0:
        said = f"Undecided: kl_recovered is {score}, but its distance to {best}, {apart}, is not apart from 0"
        return Verdict(f"{said}; evaluate more documents.")
    said = f"The words {_carried(score)}, {apart} above the best text that does not look at the activation ({best})"
    kept = _kept_when_reworded(report)
    if kept is not None and kept.value < LANGUAGE_SHARE:
        said += f", but they are closer to a private code than to language: in other words they keep {kept} of it"
    said += f"{_code_of_few(report)}{_asked_later(numbers['lens'])}"
    undecoded = _as_good_undecoded(report)
    if undecoded is not None:
        said += f"; but {undecoded}, which no decoder wrote, reaches {numbers[undecoded]['kl_recovered']}"
    return Verdict(f"{said}{_what_was_not_asked(report)}.", good=undecoded is None)


def carrying_slots(report: Report) -> list[tuple[int, float]]:
    """The words of a text, each with its share of what replacing words one by one costs, the costliest first."""
    kept = report.retention
    found = [(i, kept[code]) for code in report.groups.get(SLOTS, []) if (i := slot_of(code)) and code in kept]
    lost = {i: max(1 - numbers["kl_recovered"].value, 0.0) for i, numbers in found if "kl_recovered" in numbers}
    total = sum(lost.values())
    return sorted(((i, cost / total) for i, cost in lost.items()), key=lambda each: -each[1]) if total > 0 else []


def few_slots(report: Report) -> tuple[list[int], float] | None:
    """The one or two words that carry nearly all, with their share; None where more are needed, or there are none."""
    slots = carrying_slots(report)
    if len(slots) < 2 * FEW_SLOTS:
        return None
    for count in range(1, FEW_SLOTS + 1):
        share = sum(each for _, each in slots[:count])
        if share >= CARRIED:
            return sorted(i for i, _ in slots[:count]), share
    return None


def _code_of_few(report: Report) -> str:
    found = few_slots(report)
    if found is None:
        return ""
    slots, share = found
    which = " and ".join(map(str, slots))
    plural = "s" if len(slots) > 1 else ""
    return f"; it is a code of {['one', 'two'][len(slots) - 1]} slot{plural}: word{plural} {which} of a text " + (
        f"carr{'y' if plural else 'ies'} {share:.2f} of what its words carry"
    )


def _asked_later(lens: Numbers) -> str:
    """What the words hold beyond what comes next, where the world could ask for it."""
    if ASKED not in lens or RECALL not in lens:
        return ""
    return (
        f"; asked behind P for a fact that is not needed soon, the model gives the answer in {lens[RECALL]} of the "
        f"cases ({ASKED} {lens[ASKED]})"
    )


def _as_good_undecoded(report: Report) -> str | None:
    """The strongest control that needs no decoder, if the lens is not above it."""
    numbers, whole = report.parts["all"].numbers, report.parts["all"].differences
    codes = [code for code in UNDECODED if "kl_recovered" in numbers.get(code, {})]
    best = max(codes, key=lambda code: numbers[code]["kl_recovered"].value, default=None)
    if best is None or whole.get(best, {}).get("kl_recovered", numbers["lens"]["kl_recovered"]).low > 0:
        return None
    return best


def _what_was_not_asked(report: Report) -> str:
    """The lens's own encoder reads a context badly: without one that learned to, a lens that says no more than the
    context's end could pass."""
    texts = report.groups.get("text", [])
    if TAIL not in texts or TRAINED_TAIL in texts:
        return ""
    return "; an encoder that learned to read the end of the context, the strongest of them, was not measured"


def _as_good(report: Report, part: str) -> str | None:
    """The strongest text control, if it comes within 10 % of the lens; another row's code counts as one."""
    numbers = report.parts[part].numbers
    codes = [code for code in report.groups.get("text", []) if "kl_recovered" in numbers[code]]
    best = max(codes, key=lambda code: numbers[code]["kl_recovered"].value, default=None)
    if best is None or numbers[best]["kl_recovered"].value < BLIND_SHARE * numbers["lens"]["kl_recovered"].value:
        return None
    return best


def _where_it_is_not(report: Report) -> str:
    """Text may be enough for most rows and not for those that a judge has named."""
    said = ""
    for name, part in report.parts.items():
        best = None if name == "all" else best_text(report, part=name)
        if best is None or "kl_recovered" not in part.numbers["lens"] or _as_good(report, name) is not None:
            continue
        score, apart = part.numbers["lens"]["kl_recovered"], part.differences[best]["kl_recovered"]
        if apart.low > 0:
            where = f"on the {part.rows:,} rows where {report.definitions[name]}"
            said += f"; but {where}, the words {_carried(score)}, {apart} above {best}"
    return said


def _carried(score: Number) -> str:
    degree = next((words for least, words in _DEGREES if score.value >= least), _LEAST)
    return f"carry {degree} the model was thinking: kl_recovered {score}"


def _no_better_than_the_mean(score: Number, fve: Number | None) -> str:
    if score.high < 0:
        said = (
            f"Worse than the mean: kl_recovered is {score}, so the mean activation in A's place does less harm than "
        )
        said += "what this lens restores"
    else:
        said = f"No better than the mean: kl_recovered is {score}"
    if fve is not None and fve.low > 0:
        said += f", although fve is {fve}: near as a vector, wrong for the model"
    return f"{said}."


def _kept_when_reworded(report: Report) -> Number | None:
    """The world knows its synonyms, so where it has reworded, that counts; else the frozen model's own paraphrase."""
    for code in (REWORDED, "paraphrase"):
        if "kl_recovered" in report.retention.get(code, {}):
            return report.retention[code]["kl_recovered"]
    return None


def remarks_of(report: Report) -> list[str]:
    """What has to be said besides."""
    numbers = report.parts["all"].numbers
    lens = numbers["lens"]
    remarks = []
    questions = [
        (f"the next token (kl_recovered, {{}}; top1 {lens['top1']})", "kl_recovered"),
        (f"the horizon of {report.horizon} positions (kl_horizon_recovered, {{}})", "kl_horizon_recovered"),
        ("what comes after the next token (kl_after_recovered, {})", "kl_after_recovered"),
        (f"what a question asks later ({ASKED}, {{}})", ASKED),
        ("the vector (fve, {})", "fve"),
    ]
    parts = [text.format(lens[name]) for text, name in questions if name in lens]
    remarks.append(f"Questions kept apart: {'; '.join(parts)}.")
    fve, score = lens.get("fve"), lens.get("kl_recovered")
    if fve and score and fve.value > 0 > score.value:
        remarks.append("FVE is positive while KL recovery is negative: the vector is near and the model is harmed.")
    if shuffled := numbers.get(SHUFFLED, {}).get("kl_recovered"):
        fits = "at or below the mean, as it should be" if shuffled.low <= 0 else "above the mean: codes share content"
        remarks.append(f"{SHUFFLED}: {shuffled}, {fits}.")
    if ahead := numbers.get(AHEAD, {}).get("kl_recovered"):
        remarks.append(
            f"{AHEAD}, which looks at what the model will say and is what one gets without a lens: {ahead}."
        )
    behind = {code: numbers.get(code, {}).get("kl_after") for code in ("lens", "mean")}
    if behind["lens"] and behind["mean"]:
        remarks.append(
            f"Behind P the text costs {behind['lens']} nats and the mean activation {behind['mean']}: what the mean "
            "does not cost, nothing can recover."
        )
    undecoded = [f"{c} {numbers[c]['kl_recovered']}" for c in UNDECODED if "kl_recovered" in numbers.get(c, {})]
    if undecoded:
        remarks.append(f"What needs no decoder: {'; '.join(undecoded)}.")
    if slots := carrying_slots(report):
        remarks.append(f"What each word carries: {'; '.join(f'word {i} {share:.2f}' for i, share in sorted(slots))}.")
    changed = set(report.groups.get(SLOTS, []))
    kept = [
        f"{code} {n['kl_recovered']}"
        for code, n in report.retention.items()
        if "kl_recovered" in n and code not in changed
    ]
    if kept:
        remarks.append(f"Share of kl_recovered that survives: {'; '.join(kept)}.")
    return remarks
