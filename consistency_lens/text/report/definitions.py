"""What every trait of a text and every control of a text lens means, in a sentence; and how such a report is shown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ...evaluation.about import DETAILS, LENS, MEAN, QUESTIONS, About, Course, Group, Sweep
from ...evaluation.family import EDIT

SHUFFLED, REWORDED, TAIL = "shuffled_activation", "reworded", "context_tail"
TRAINED_TAIL = "context_tail_trained"  # a rival that learned to read such tails
# A text control that knows what the subject will say: what one gets without a lens. It is no sign of blindness.
AHEAD = "own_continuation"
TEXT, LOOKS_AHEAD, TAMPERED = "text", "ahead", "tampered"
GROUPS = (
    Group(LENS, "the lens", brief=True),
    Group(TEXT, "codes not from A", "words that do not come from this activation", compared=True, brief=True),
    Group(LOOKS_AHEAD, "text, looking ahead", "words that look ahead", compared=True, brief=True),
    Group(EDIT, "edits, no code", "vectors, no words"),
    Group(TAMPERED, "its code, tampered", "the lens's own words, tampered with", changed=True),
)
TITLES = {
    "differences": "How far the lens is above text",
    "kinds": "By kind: what the lens names, and what the activation holds",
    "gains": "Since its warm start: what training on function changed",
    "retention": "Language or a private code: share that survives tampering",
    "code": "Is it language, or a private code?",
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


def of_code(name: str) -> str:
    if cut := truncation(name):
        return f"the first {cut} token{'s' if cut > 1 else ''} of the lens's text"
    return CODES.get(name, "a control of this family of lenses")


def truncation(name: str) -> int | None:
    """How many tokens a truncated code keeps, if the name says so."""
    found = _TRUNCATED.fullmatch(name)
    return int(found[1]) if found else None


def about_of(groups: Mapping[str, Sequence[str]]) -> About:
    """How the report of a text lens is shown."""
    cuts = sorted((size, code) for code in groups.get(TAMPERED, ()) if (size := truncation(code)))
    sweep = Sweep(
        name="truncation",
        caption="What the first words carry",
        title="What the first words carry",
        axis="tokens of the text that are kept",
        codes={str(size): code for size, code in cuts},
    )
    course = Course(
        caption="Fidelity against readability over training",
        title="Fidelity against readability",
        x="text_nll",
        axis="text_nll in nats (right is plainer)",
    )
    return About(
        GROUPS,
        zero=MEAN,
        questions=QUESTIONS,
        details=DETAILS,
        narrow=("kl_after_recovered",),
        titles=TITLES,
        sweep=sweep,
        course=course,
    )
