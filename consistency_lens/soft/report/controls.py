"""What a wire is compared with: parts of the text in as many soft tokens, and codes that know less.

Shapes: B rows, P tokens of the longest passage, M soft tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...base.comparing import Joint
from ...frozen import Edit, FrozenLM
from ..code import LatentCode


def own_words(model: FrozenLM, tokens: Mapping[str, Any], chosen: Tensor, mask: Tensor) -> Edit:
    """Tokens of the passage as soft tokens of a model.

    Args:
        model: a receiver.
        tokens: of a batch, for this model.
        chosen: `[B, M]`, their places in the passage.
        mask: `[B, M]`, which of these a row has.
    """
    ids = tokens["passage_ids"].to(model.device).gather(1, chosen)
    value = model.model.get_input_embeddings()(ids)
    return Edit("embed", value, tokens["front"], "prepend", lm=model.name, mask=mask)


def whole_text(model: FrozenLM, tokens: Mapping[str, Any]) -> Edit:
    """The whole passage as soft tokens."""
    mask = tokens["passage_mask"].to(model.device)
    places = torch.arange(mask.shape[1], device=model.device).expand(mask.shape)
    return own_words(model, tokens, places, mask)


def truncated(model: FrozenLM, tokens: Mapping[str, Any], counts: Tensor, how: str) -> Edit:
    """As many tokens of each passage as its code has vectors, of the model's own tokens: `first`, `last` or `thinned`.

    A passage of fewer tokens is whole.
    """
    return own_words(model, tokens, *cut(model, tokens, counts, how))


def cut(model: FrozenLM, tokens: Mapping[str, Any], counts: Tensor, how: str) -> tuple[Tensor, Tensor]:
    """The places of these tokens in the passage, `[B, M]`, and which of them a row has."""
    lengths = tokens["passage_mask"].to(model.device).sum(1)
    kept = torch.minimum(counts.to(model.device), lengths)[:, None]
    slots = torch.arange(int(kept.max()), device=model.device)
    places = {
        "first": slots.expand(len(lengths), -1),
        "last": lengths[:, None] - kept + slots,
        "thinned": slots * lengths[:, None] // kept,
    }[how]
    return places.clamp(max=int(lengths.max()) - 1), slots < kept


def texts_at(model: FrozenLM, tokens: Mapping[str, Any], chosen: Tensor, mask: Tensor) -> list[str]:
    """The tokens at these places of each passage, as text."""
    ids = tokens["passage_ids"].to(model.device).gather(1, chosen)
    rows = [row[there].tolist() for row, there in zip(ids, mask, strict=True)]
    return [str(text) for text in model.tokenizer.batch_decode(rows)]


def better_of(comparison: Joint, one: Sequence[Edit], other: Sequence[Edit]) -> list[Edit]:
    """Of two edits for each receiver, in each row the one behind which the answer is likelier.

    Args:
        comparison: of the batch.
        one, other: soft tokens for each receiver, as many in the one as in the other.
    """
    first, second = comparison.measure(one), comparison.measure(other)
    found = []
    for a, b in zip(one, other, strict=True):
        worse = first[f"nll/{a.lm}"] > second[f"nll/{a.lm}"]
        chosen = worse.to(a.tensor.device)[:, None]
        assert a.mask is not None and b.mask is not None
        value = torch.where(chosen[..., None], b.tensor, a.tensor)
        found.append(replace(a, value=value, mask=torch.where(chosen, b.mask, a.mask)))
    return found


def turned(code: LatentCode, seed: int = 0) -> LatentCode:
    """The same vectors in other coordinates, by a rotation drawn at random."""
    drawn = torch.randn(2 * [code.vectors.shape[-1]], generator=torch.Generator().manual_seed(seed))
    return LatentCode(code.vectors @ torch.linalg.qr(drawn)[0].to(code.vectors), code.mask)


def others(documents: Tensor) -> Tensor:
    """For each row, the next one of the batch that is of another document, `[B]`; itself where there is none."""
    numbers, count = documents.tolist(), len(documents)
    found = []
    for row, own in enumerate(numbers):
        steps = ((row + step) % count for step in range(1, count))
        found.append(next((other for other in steps if numbers[other] != own), row))
    return torch.tensor(found)


def averaged(code: LatentCode) -> LatentCode:
    """Each vector the mean of all."""
    mean = code.vectors[code.mask].mean(0)
    return LatentCode(mean * code.mask[..., None], code.mask)
