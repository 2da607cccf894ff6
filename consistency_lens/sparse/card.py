"""What is on the card of a transcoder, and on no other."""

from __future__ import annotations

from pathlib import Path

from ..base.family_card import FamilyCard

TRANSCODER_CARD = FamilyCard(
    summary="Reads {subject} at {sites}, and puts it into {code}.",
    usage=(
        "for row in lens.features(text, top=3):\n"
        "    print(f\"{row['token'].strip()}: {row['explanation']} ({row['active']} active)\")\n"
    ),
    watched={
        "kl_recovered": "1 - kl / kl of mean ablation, with the lens in the place of all its sites inside one pass",
        "top1": "how often the likeliest next token stays the same with the lens in place",
        "ev": "explained variance, 1 - Σ|y - ŷ|² / Σ|y - E y|², of what the lens reconstructs",
        "l0": "active features per token and layer",
        "dead": "share of features that have not been active for `dead_after` training tokens",
    },
    template=Path(__file__).with_name("card_template.md"),
)
