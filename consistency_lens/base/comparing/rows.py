"""Rows for people: what a lens makes of some inputs, as the training table, the card and the explorer show it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...frozen import Edit, FrozenLM, FrozenModels
from ..lens import Lens
from .chain import Applied, apply_lens
from .comparison import compare_vectors
from .token_swap import TokenSwap

TOP = 5  # likeliest next tokens
CONTINUED = 8  # tokens of a continuation
OPEN, CLOSE = "⟦", "⟧"  # round the analysed token


@torch.no_grad()
def rows_for_people(
    lens: Lens, models: FrozenLM | FrozenModels, batches: Iterable[Mapping[str, Any]], step: int
) -> list[dict[str, Any]]:
    """One row per input, as the sample table has it: where it is from, how the lens describes its code, and what the
    model predicts without the edits and with them; `columns.COLUMNS` defines each. Of a swap at P it says how the
    model continues, too."""
    rows: list[dict[str, Any]] = []
    length, models = CONTINUED, FrozenModels.of(models)
    frozen = models.first
    for batch in batches:
        applied = apply_lens(lens, models, batch)
        more: dict[str, list[str]] = {}
        if isinstance(applied.comparison, TokenSwap):
            prefix = applied.comparison.prefix
            length = max(1, min(length, frozen.max_length - prefix.input_ids.shape[1] + 1))
            for name, edits in (("before", []), ("after", applied.edits)):
                ids, _ = prefix.continue_greedily(length, edits)
                more[f"continuation_{name}"] = [frozen.tokenizer.decode(row) for row in ids]
        for i, row in enumerate(rows_of(lens, frozen, applied, batch, TOP)):
            rows.append(
                {
                    "step": step,
                    "row": len(rows),
                    **{name: int(batch[name][i]) for name in ("doc_id", "position") if name in batch},
                    "context": context_of(frozen, i, applied),
                    **row,
                    **{name: values[i] for name, values in more.items()},
                }
            )
    return rows


def rows_of(
    lens: Lens, frozen: FrozenLM, applied: Applied, batch: Mapping[str, Any], top: int
) -> list[dict[str, Any]]:
    """What every table shows of the rows of a batch: the described code, `kl`, `cosine` where one vector was restored,
    and the likeliest next tokens `before` and `after`."""
    numbers = {"kl": applied.kl.tolist(), **of_vectors(applied.edits, batch)}
    rows = []
    for i, described in enumerate(lens.describe(applied.code)):
        before, after = applied.likeliest(frozen.tokenizer, i, top, applied.comparison.shown_column(i))
        found = {name: values[i] for name, values in numbers.items()}
        rows.append({**described, **found, "before": before, "after": after})
    return rows


def of_vectors(edits: Sequence[Edit], batch: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The cosine, where a lens restores one vector of each row that it read; and where rows are of different sites,
    which site a row is of."""
    read = batch.get("activations", {})
    once = len(edits) == 1 or (len(edits) > 1 and all(edit.rows is not None for edit in edits))
    if not once or any(not isinstance(edit.value, Tensor) or str(edit.site) not in read for edit in edits):
        return {}
    first = edits[0]
    original, sites = read[str(first.site)], [str(first.site)] * len(read[str(first.site)])
    for edit in edits[1:]:
        assert edit.rows is not None
        original = torch.where(edit.rows.to(original.device).unsqueeze(1), read[str(edit.site)], original)
        sites = [str(edit.site) if here else site for here, site in zip(edit.rows.tolist(), sites, strict=True)]
    if first.tensor.shape != original.shape:
        return {}
    found: dict[str, list[Any]] = {"cosine": compare_vectors(first.tensor, original)["cosine"].tolist()}
    return found if len(edits) == 1 else {"site": sites, **found}


def context_of(frozen: FrozenLM, row: int, applied: Applied) -> str:
    """What the model has read of a row; of a swap at P, P's token is marked."""
    ids = applied.comparison.ids(row)
    if isinstance(applied.comparison, TokenSwap):
        return marked(frozen.tokenizer, ids)
    return str(frozen.tokenizer.decode(ids, skip_special_tokens=True))


def marked(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of a context with its last token, the one that is analysed, between brackets."""
    head = tokenizer.decode(ids[:-1], skip_special_tokens=True)
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    last = whole[len(head) :] if whole.startswith(head) else ""
    token = last.strip() or tokenizer.decode(ids[-1:]).strip()  # special, or half of a character
    space = " " if last != last.lstrip() else ""
    return f"{head}{space}{OPEN}{token}{CLOSE}"
