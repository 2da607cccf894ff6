"""What is on the card of a wire, and on no other."""

from __future__ import annotations

from ..base.family_card import FamilyCard

WIRE_CARD = FamilyCard(
    summary="Compresses a text into {code}, which {subject} reads in the text's place.",
    usage=(
        "wire = lens.to_bytes(text)  # compressed, quantised, packed\n"
        "print(len(wire), 'bytes')\n"
        "for name in lens.config.names:\n"
        "    print(name, lens.answer(wire, 'What is it about?', receiver=name, max_new_tokens=8))\n"
    ),
    watched={
        "kl_recovered": "1 - KL(text || code) / KL(text || no context) over the answer's tokens, in the mean over the "
        "receivers: 1 is the text, 0 is no context",
        "top1": "how often the likeliest next token of an answer stays the same with the code in the text's place",
        "nll": "nats per answer token with the code, teacher-forced, the end of the answer included",
        "first_token": "share of answers whose first token is the likeliest one",
    },
)
