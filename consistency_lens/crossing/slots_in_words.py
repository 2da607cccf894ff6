"""Soft tokens of a wire, as a lens in words of one of its receivers explains what that model makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..errors import BadInput
from ..soft.data import collator_of
from ..soft.report.spelling import Spelling
from .together import require_vector_lens

if TYPE_CHECKING:
    from ..base.modeling import LensModel
    from ..soft.modeling import LatentWire


@torch.no_grad()
def words_of_slots(
    words: LensModel, wire: LatentWire, texts: str | Sequence[str], ratio: float | None = None
) -> list[list[str]]:
    """What each vector of each text's code says, in words.

    A receiver reads the soft tokens of the code in front of everything else; the lens in words explains its activation
    at each of them.

    Args:
        words: a lens in words of one of the receivers.
        wire: with its models.
        texts: what it compresses, one or several.
        ratio: tokens for each vector. Default: as the wire was made.
    """
    require_vector_lens(words)
    if wire.models is None:
        fix = "Load the wire with its models: AutoLens.from_pretrained(wire)."
        raise BadInput("subject", None, fix, why="a receiver has to read the soft tokens")
    spelling = Spelling(words, wire.models)
    given = [texts] if isinstance(texts, str) else list(texts)
    if empty := [text for text in given if not text.strip()]:
        raise BadInput("text", empty[0], "Give at least one word.")
    # A prompt has to stand behind the code; it comes after the vectors, which do not see it.
    rows = [
        {"passage": text, "prompt": text.split()[0], "answers": ["."], "task": "answer", "ends": True}
        for text in given
    ]
    batch = collator_of(wire.config, wire.models)(rows)
    return spelling.texts(wire, wire.encode(batch, ratio=ratio), batch)
