"""What is on the card of a text lens, and on no other."""

from __future__ import annotations

from pathlib import Path

from ..base.family_card import WATCHED, FamilyCard

TEXT_CARD = FamilyCard(
    usage=(
        "for row in lens.explain(text, positions=[-3, -2, -1]):\n"
        "    print(f\"{row['token'].strip()}: {row['explanation']} (KL {row['kl']:.2f})\")\n"
    ),
    watched={
        **WATCHED,
        "text_nll": "nats per token of the words under the frozen model: how natural they are",
        "distinct": "different codes, over all codes",
    },
    template=Path(__file__).with_name("card_template.md"),
)
