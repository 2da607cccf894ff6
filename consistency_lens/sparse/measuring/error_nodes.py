"""Error nodes: what a transcoder leaves of the untouched model's values, added to what it writes inside a pass.

With nothing else changed they make the replaced model the untouched one, to rounding: that tests the replacement
itself, and it is the model in which circuit-tracer and others ablate features.

Shapes: B rows, S columns, N tokens, L chosen layers, d hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...frozen import Edit
from ..use.replacing import kept_columns


def spread_out(values: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """`[N, ...]`, document after document without first tokens, as `[B, S, ...]` with zeros where nothing is."""
    columns = ~kept_columns(batch, batch["input_ids"])
    found = values.new_zeros(*columns.shape, *values.shape[1:])
    found[columns.to(values.device)] = values
    return found


def with_errors(edits: Sequence[Edit], errors: Tensor) -> list[Edit]:
    """A transcoder's edits with something added to each.

    Args:
        edits: one for each chosen layer, computed inside the pass.
        errors: y - ŷ of the clean pass, `[B, S, L, d]`.
    """

    def summed(edit: Edit, error: Tensor) -> Edit:
        own: Any = edit.value

        def computed(read: Mapping[str, Tensor]) -> Tensor:
            written: Tensor = own(read)
            return written + error.to(written)

        return Edit(edit.site, computed, edit.positions, edit.mode, edit.lm, edit.reads)

    return [summed(edit, errors[:, :, i]) for i, edit in enumerate(edits)]
