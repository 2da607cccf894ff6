"""`steer`: what `run_lens.py` does with a lens that speaks in words, and with no other."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from ...base.family_run import Command, Use
from ..options import SteerOptions

if TYPE_CHECKING:
    from .steering import Steered

EXAMPLE = 'run_lens.py steer "some text" "was blue ." --position=-1 --lens RUN'
SHOWN = 2  # of the likeliest next tokens, on a line


def steer(use: Use) -> None:
    """What the model predicts and says when the words of one of its activations are changed."""
    text = use.word("text", f"Write a text, and what its activation shall say: {EXAMPLE}")
    words = use.word("explanation", f"Write what the activation shall say: {EXAMPLE}")
    given = SteerOptions(**{f.name: use.values[f.name] for f in fields(SteerOptions)})
    found = use.loaded().steer(
        text, given.position, words, strength=given.strength, continuation_length=given.max_new_tokens, temperature=0.0
    )
    said = json.dumps(asdict(found), ensure_ascii=False) if use.values["json"] else "\n".join(lines_of(found))
    sys.stdout.write(f"{said}\n")


def lines_of(found: Steered) -> list[str]:
    """The same for people."""
    sides = {
        "before": (found.before, found.continuation_before),
        "after": (found.after, found.continuation_after),
    }
    shown = {
        side: f"{', '.join(f'{token.strip()} {chance:.2f}' for token, chance in likely[:SHOWN])} | {said.strip()}"
        for side, (likely, said) in sides.items()
    }
    away = (
        "no other token to measure it on"
        if found.off_target is None
        else f"{found.off_target:.5f} over {found.off_target_tokens} other tokens"
    )
    return [
        f"words at {found.position} ({found.token.strip()}): {found.old_explanation} -> {found.new_explanation}",
        *(f"{side:6} {line}" for side, line in shown.items()),
        f"KL {found.kl:.3f}, off-target {away}",
    ]


USES = {
    "steer": Command(
        'change the words of an activation, and see what follows: "some text" "new words"',
        steer,
        ("text", "explanation"),
    )
}
