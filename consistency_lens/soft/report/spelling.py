"""What a text lens writes of the vectors of a code, where there is one for a model that reads them.

Shapes: B rows, M vectors, n vectors of all rows, d hidden size of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...base.modeling import LensModel
from ...errors import BadInput
from ...evaluation.about import Listing
from ...frozen import FrozenLM, FrozenModels
from ...frozen.hooks import reading
from ...frozen.sites import resolve_sites
from ..code import LatentCode
from .fitting import some_rows

LISTED, ROWS = 10, 64


class Spelling:
    """A text lens that reads what a receiver makes of soft tokens, at the sites that the lens was made for.

    Args:
        lens: the text lens.
        models: the receivers; the lens was made for one of them.
    """

    def __init__(self, lens: LensModel, models: FrozenModels) -> None:
        weights = lens.config.origin.weights
        found = [model for model in models.values() if model.provenance("embed").weights == weights]
        if lens.config.medium != "text" or not found:
            fix = f"Name a lens in words of one of {', '.join(models)}."
            raise BadInput("text_lens", lens.config.origin.model_id, fix, why="it reads none of the receivers")
        self.lens, self.model = lens, found[0]
        self.left, self._listed = ROWS, list[tuple[str, ...]]()

    @torch.no_grad()
    def recalls(self, wire: Any, code: LatentCode, batch: Mapping[str, Any], other: Tensor) -> dict[str, Tensor]:
        """Which share of a passage's words is written of its vectors, and which of another passage's: the control.
        Of the first rows of the evaluation; NaN, which does not count, of the others.

        Args:
            wire: the lens of soft tokens.
            code: of the passages.
            batch: theirs.
            other: for each row another one, `[B]`.
        """
        count = min(self.left, len(code))
        self.left -= count
        own, control = (torch.full((len(code),), torch.nan) for _ in range(2))
        texts = self.texts(wire, code.take(torch.arange(count)), some_rows(batch, count)) if count else []
        words = [set(passage.lower().split()) for passage in batch["passage"]]
        for row, written in enumerate(texts):
            said = set(" ".join(written).lower().split())
            own[row] = len(words[row] & said) / len(words[row])
            control[row] = len(words[int(other[row])] & said) / len(words[int(other[row])])
            if len(self._listed) < LISTED:
                self._listed.append((batch["passage"][row], " · ".join(written)))
        return {"spelled": own, "spelled_of_another": control}

    def listing(self) -> Listing:
        """Some passages, and what the text lens writes of each vector."""
        title = f"What a text lens of {self.model.name} writes of each vector"
        return Listing(title, ("passage", "of its vectors, in their order"), tuple(self._listed))

    @torch.no_grad()
    def texts(self, wire: Any, code: LatentCode, batch: Mapping[str, Any]) -> list[list[str]]:
        """What is written of each vector of each row."""
        soft = wire.soft_tokens(code, batch, self.model.name)
        read = at_vectors(self.model, soft.tensor, code.mask, batch["tokens"][self.model.name]["bos"], self.lens)
        rows = self.lens.describe(self.lens.compress({"activations": read}))
        texts = iter([str(row["explanation"]) for row in rows])
        return [[next(texts) for _ in range(count)] for count in code.counts]


@torch.no_grad()
def at_vectors(model: FrozenLM, soft: Tensor, mask: Tensor, bos: int, lens: LensModel) -> dict[str, Tensor]:
    """Activations of a model at the soft tokens of codes, at the sites of a lens: `[n, d]` each.

    Args:
        model: the receiver.
        soft: its soft tokens, `[B, N, d]`; the vectors of a code come first.
        mask: `[B, M]`, the vectors that a row has.
        bos: how many tokens stand in front of them.
        lens: whose sites these are.
    """
    vectors = soft[:, : mask.shape[1]].to(model.device, model.dtype)
    first = torch.full((len(soft), bos), model.tokenizer.bos_token_id or 0, device=model.device)
    embedded = torch.cat([model.model.get_input_embeddings()(first), vectors], 1)
    there = torch.cat([torch.ones_like(first).bool(), mask.to(model.device)], 1).long()
    with reading(model.model, resolve_sites(lens.config.sites or [], model.num_layers), cut=True) as found:
        model.model(inputs_embeds=embedded, attention_mask=there, use_cache=False)
    return {site: value[:, bos:][mask.to(value.device)].float() for site, value in found.items()}
