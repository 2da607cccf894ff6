"""What every trait of a text and every control of a text lens means, in a sentence; and how such a report is shown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ...evaluation.about import DETAILS, LENS, MEAN, QUESTIONS, About, Course, Group, Sweep
from ...evaluation.family import EDIT
from ..sceptic.controls import DEFINED, GREEDY, PROBES, TABLE
from ..sceptic.questions import QUANTITIES
from ..sceptic.stored import DEFINED as STORED_DEFINED
from ..sceptic.suffix import OF_TOPIC

SHUFFLED, REWORDED, TAIL = "shuffled_activation", "reworded", "context_tail"
TRAINED_TAIL = "context_tail_trained"  # a rival that learned to read such tails
# A text control that knows what the frozen model will say: what one gets without a lens. It is no sign of blindness.
AHEAD = "own_continuation"
TRAINED_GREEDY = f"{GREEDY}_trained"  # a rival that learned to read what the frozen model predicts next
FRESH_ENCODER = "fresh_encoder"  # a rival that learned to read the lens's own texts
READ_BY = {TRAINED_GREEDY: GREEDY, FRESH_ENCODER: LENS}  # rival -> the code that it reads; all others read the tail
TEXT, LOOKS_AHEAD, TAMPERED, TWO_TOKENS, SLOTS = "text", "ahead", "tampered", "two_tokens", "slots"
STORED, READ_ANEW = "stored", "read_anew"
# What needs no decoder: a lens is worth what it has above the best of these.
UNDECODED = (GREEDY, TRAINED_GREEDY, TABLE, PROBES)
IN_FRONT, EARLIER_IN_FRONT = "reworded in front", "reworded in front before"  # rows whose first words changed
GROUPS = (
    Group(LENS, "the lens", brief=True),
    Group(TEXT, "codes not from A", "words that do not come from this activation", compared=True, brief=True),
    Group(LOOKS_AHEAD, "text, looking ahead", "words that look ahead", compared=True, brief=True),
    Group(TWO_TOKENS, "two tokens, no text", "two tokens, no text", compared=True, brief=True),
    Group(STORED, "a training row", "another row's activation, looked up", compared=True),
    Group(EDIT, "edits, no code", "vectors, no words"),
    Group(TAMPERED, "its code, tampered", "the lens's own words, tampered with", changed=True),
    Group(READ_ANEW, "its code, read anew", "the lens's own words, read by a new encoder", changed=True),
    Group(SLOTS, "its words, one changed", "the lens's own words, one of them changed", changed=True),
)
TITLES = {
    "differences": "How far the lens is above text",
    "kinds": "By kind: what the lens names, and what the activation holds",
    "gains": "Since its warm start: what training on function changed",
    "retention": "Language or a private code: share that survives tampering",
    "code": "Is it language, or a private code?",
}
TRAITS = {
    "text_nll": "nats per token of the text under the model, behind the decoder's prompt without the activation",
    "sample_nll": "nats per token of the frozen model's own samples of the same length",
    "excerpt_nll": "nats per token of what the model itself says next, sampled, of the same length, and judged like "
    "text_nll: without the context it belongs to",
    "text_nll_above_excerpts": "text_nll minus excerpt_nll: how much less natural the text is than an excerpt from "
    "the middle of what M says",
    "text_nll_above_samples": "text_nll minus sample_nll: how much less natural the text is than what M itself says",
    "length": "tokens of the text",
    "repetition": "share of a text's pairs of neighbouring tokens that have come before in it",
    "round_trip": "how often the printed text, tokenised again, is the same tokens",
    "retrieval": "how often M, given the text, picks its own context among 4 by likelihood; chance is .25",
    **OF_TOPIC,
    "reworded_changed": "share of the texts that a world's rewording changed at all",
    "reworded_in_front": "share of the texts of which it changed the first or second word",
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
    "own_continuation": "P's token and what the frozen model itself says next: it looks ahead, and is what one gets "
    "without a lens",
    **DEFINED,
    **STORED_DEFINED,
    TRAINED_GREEDY: f"the text of {GREEDY}, read by an encoder trained on such texts with the same objective and "
    "budget",
    FRESH_ENCODER: "the lens's text, read by a new encoder that was trained on such texts with the same objective and "
    "budget: what is in the words for anybody",
    "token_shuffle": "the lens's tokens in another order",
    "paraphrase": "the lens's text, rewritten by the frozen model",
    "reworded": "the lens's text in other words and another order, by a world that knows its synonyms; over the rows "
    "whose first two words changed",
}
_SLOT = re.compile(r"slot_(\d+)(_dropped)?")
_EXCHANGED = re.compile(r"slots_(\d+)_(\d+)_exchanged")
_TRUNCATED = re.compile(r"truncation_(\d+)")


def of_code(name: str) -> str:
    if cut := truncation(name):
        return f"the first {cut} token{'s' if cut > 1 else ''} of the lens's text"
    if found := _SLOT.fullmatch(name):
        how = "left out" if found[2] else "replaced by what stands there in another row's text"
        return f"the lens's text with word {found[1]} {how}"
    if found := _EXCHANGED.fullmatch(name):
        return f"the lens's text with words {found[1]} and {found[2]} exchanged"
    return CODES.get(name, "a control of this family of lenses")


def slot_of(name: str) -> int | None:
    """Which word a code has replaced, if the name says so."""
    found = _SLOT.fullmatch(name)
    return int(found[1]) if found and not found[2] else None


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
        details=(*DETAILS, *QUANTITIES),
        narrow=("kl_after_recovered",),
        titles=TITLES,
        sweep=sweep,
        course=course,
    )
