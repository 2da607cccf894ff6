"""What is on the card of a wire, and on no other."""

from __future__ import annotations

from ..base.family_card import FamilyCard

WIRE_CARD = FamilyCard(
    summary="Compresses a text into {code}, which {subject} reads in the text's place.",
    usage=(
        "from consistency_lens.soft.using import answer, compress_texts\n\n"
        "code = compress_texts(lens, [text])\n"
        "print(lens.describe(code)[0]['explanation'])\n"
        "for name in lens.config.names:\n"
        "    print(name, answer(lens, code, ['What is it about?'], name, max_new_tokens=8))\n"
    ),
    watched={
        "kl_recovered": "1 - KL(text || code) / KL(text || no context) over the answer's tokens, in the mean over the "
        "receivers: 1 is the text, 0 is no context",
        "top1": "how often the likeliest next token of an answer stays the same with the code in the text's place",
        "nll": "nats per answer token with the code, teacher-forced, the end of the answer included",
        "first_token": "share of answers whose first token is the likeliest one",
    },
    task="Soft tokens",
)
