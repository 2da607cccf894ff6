"""`LensConfig`: what a lens is. It goes to the Hub, and nothing in it depends on the step it was saved at."""

from __future__ import annotations

import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ..errors import BadInput
from ..frozen import FrozenLM, Provenance


@strict
class LensConfig(PreTrainedConfig):
    r"""
    Args:
        sites (`list[str]`): where the lens reads and writes, in numbers (`resid_post.20`).
        hidden_size (`int`): of the subject; also what DeepSpeed sizes its buckets by.
        provenance (`dict`): of the subject: id, weights, tokenizer, dtype. A lens used with another one is refused.
        activation_norm (`float`): mean norm of the training activations: rows are stored raw, scale lives here.
    """

    model_type = "lens"
    medium = ""  # of the code: "text", "sparse" or "soft"

    sites: list[str] | None = None
    hidden_size: int = 0
    provenance: dict[str, Any] | None = None
    activation_norm: float = 1.0

    def __post_init__(self, **kwargs: Any) -> None:
        require_norm("activation_norm", self.activation_norm)
        super().__post_init__(**kwargs)

    @property
    def origin(self) -> Provenance:
        """What the lens was made for."""
        assert self.provenance is not None, "a lens is made by its family's `from_subject`"
        return Provenance.from_dict(self.provenance)

    @property
    def code_in_words(self) -> str:
        """The size of a code, for people: "at most 8 tokens of text"."""
        raise NotImplementedError

    @property
    def weight_files(self) -> list[str]:
        """What has to lie in the folder of a lens; a family with parts adds theirs."""
        return ["model.safetensors"]

    @property
    def part_folders(self) -> tuple[str, ...]:
        """Where parts have their weights; a family with parts says so."""
        return ()

    @property
    def relation(self) -> str:
        """To the subject, as the Hub calls it: an `adapter` is nothing without its weights, a `finetune` holds a copy
        of them that was trained further."""
        return "adapter"

    def require_subject(self, frozen: FrozenLM, ignore: tuple[str, ...] = ()) -> None:
        """Raise unless this is the model, tokenizer and site that the lens was made for; both sides are shown."""
        frozen.provenance(*(self.sites or [])).require_same(self.origin, "the model", "the lens", ignore)


def require_norm(name: str, norm: float) -> None:
    """Raise unless activations can be divided by it."""
    if not 0 < norm < math.inf:
        fix = "It has to be a finite number above 0: rows whose activations are all zeros cannot be scaled."
        raise BadInput(name, norm, fix)
