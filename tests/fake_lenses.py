"""Lenses whose quality is known, for tests of who judges them: a code is the activation itself, more or less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from consistency_lens.base.configuration import LensConfig
from consistency_lens.base.lens import Code
from consistency_lens.base.modeling import LensModel
from consistency_lens.frozen import Edit, FrozenLM, Prefix

SITE = "resid_post.1"


@dataclass(frozen=True)
class VectorCode(Code):
    """Vectors `[B, d]` that pass for a text."""

    vectors: Tensor

    def take(self, rows: Tensor) -> VectorCode:
        return VectorCode(self.vectors[rows])

    def __len__(self) -> int:
        return len(self.vectors)


class VectorLens(LensModel):
    """Restores `share` of A, the rest from the mean; its text controls restore as much as `rival_shares` say."""

    def __init__(
        self, frozen: FrozenLM, mean: Tensor, share: float = 1.0, rival_shares: Mapping[str, float] | None = None
    ) -> None:
        config = LensConfig(sites=[SITE], hidden_size=frozen.hidden_size, provenance=frozen.provenance(SITE).to_dict())
        super().__init__(config)
        self.mean, self.share, self.rival_shares = mean, share, dict(rival_shares or {})

    def _mixed(self, vectors: Tensor, share: float) -> VectorCode:
        return VectorCode(share * vectors + (1 - share) * self.mean)

    def compress(self, batch: Mapping[str, Any], seed: int | None = None) -> VectorCode:
        return self._mixed(batch["activations"][SITE].float(), self.share)

    def restore(self, code: Any, batch: Mapping[str, Any]) -> list[Edit]:
        return [Edit(SITE, code.vectors)]

    def describe(self, code: Any) -> list[dict[str, Any]]:
        return [{"explanation": f"w{int(vector.abs().argmax())} w1"} for vector in code.vectors]

    def rivals(self, batch: Mapping[str, Any], prefix: Prefix, frozen: FrozenLM, seed: int) -> dict[str, Code]:
        vectors = batch["activations"][SITE].float()
        return {name: self._mixed(vectors, share) for name, share in self.rival_shares.items()}

    def tampered(self, code: Any, prefix: Prefix, frozen: FrozenLM, seed: int) -> dict[str, Code]:
        halved = code.vectors / 2 + self.mean / 2
        return {"truncation_1": VectorCode(halved), "token_shuffle": VectorCode(code.vectors)}

    def traits(
        self, code: Any, batch: Mapping[str, Any], prefix: Prefix, frozen: FrozenLM, seed: int
    ) -> dict[str, Tensor]:
        length = torch.arange(len(code)).float()
        return {"length": torch.where(length == 0, torch.nan, 2.0), "text_nll": length, "sample_nll": length - 1}

    def reread(self, texts: Sequence[str]) -> VectorCode:
        return VectorCode(self.mean.expand(len(texts), -1))


class Nonsense(VectorLens):
    """Restores noise that is far too long."""

    def compress(self, batch: Mapping[str, Any], seed: int | None = None) -> VectorCode:
        vectors = batch["activations"][SITE].float()
        return VectorCode(20 * torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1)))
