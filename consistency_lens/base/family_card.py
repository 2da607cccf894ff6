"""`FamilyCard`: what a family of lenses puts on the card of each of its lenses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# What evaluations during training watch. The report defines the same names, with intervals.
WATCHED = {
    "kl_recovered": "1 - KL(M(A) || M(Â)) / KL(M(A) || M(μ)) at the next token, μ the mean activation: 1 is perfect, "
    "0 is the mean",
    "kl_horizon_recovered": "the same over the horizon: the next token and the true ones behind it",
    "top1": "how often the likeliest next token stays the same",
    "fve": "1 - Σ|A - Â|² / Σ|A - μ|²: how near the vector is",
    "cosine": "cos(A, Â)",
}


@dataclass(frozen=True)
class FamilyCard:
    """Sentences, definitions and code for a card.

    Args:
        summary: one sentence; `{subject}`, `{sites}` and `{code}` stand for the model, where it is read, and the size
            of the code.
        usage: Python that shows what a lens does, with `lens` and `text` at hand; it prints.
        watched: number -> definition, of those that a training watches.
        template: a file whose jinja blocks take the place of those of the card's frame, `model_card_template.md`.
    """

    summary: str = "Reads what {subject} computes at {sites}, and puts it into {code}."
    usage: str = "print(lens.config)\n"
    watched: Mapping[str, str] = field(default_factory=lambda: WATCHED)
    template: Path | None = None

    @property
    def partial(self) -> str:
        """The text of the template; '' where the frame is enough."""
        return "" if self.template is None else self.template.read_text("utf-8")
