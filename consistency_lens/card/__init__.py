"""Cards from facts: a template is filled with what was measured, then merged with what a person has written."""

from .facts import CardFacts, Control, Measured, Part, Section
from .merging import FRONT_MATTER, RESULTS, SECTION, merge_card, readdress, write_card, write_results
from .rendering import literal, model_card, model_card_template, render_card

__all__ = [
    "FRONT_MATTER",
    "RESULTS",
    "SECTION",
    "CardFacts",
    "Control",
    "Measured",
    "Part",
    "Section",
    "literal",
    "merge_card",
    "model_card",
    "model_card_template",
    "readdress",
    "render_card",
    "write_card",
    "write_results",
]
